import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.audit import audit, read_report
from fedtrain.errors import ReportError


def leaves(tree, path=()):
    """Give the path of every value that is no object and no list."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    else:
        yield path


def another(value, choice):
    """Give another value of the same kind, so that most of them can still be read."""
    if isinstance(value, bool) or value is None:
        return value is None or not value
    if isinstance(value, int):
        return value + (-1, 1)[choice % 2]
    if isinstance(value, float):
        return value * (0.5, 1 + 1e-9, 2.0)[choice % 3] or 0.5
    place = choice % max(len(value), 1)
    letters = [letter for letter in "0aA" if letter != value[place : place + 1]]
    return value[:place] + letters[choice % len(letters)] + value[place + 1 :]


@settings(max_examples=150, deadline=None)
@given(proof=st.booleans(), place=st.integers(0, 10_000), choice=st.integers(0, 10_000))
def test_no_value_of_a_report_can_be_changed_unnoticed(proof, place, choice, world, honest):
    """The server's last record covers the body, signatures the proof: wherever a value is changed, something fails."""
    forged = json.loads(json.dumps(honest))
    places = [path for path in leaves(forged) if (path[0] == "proof") is proof]
    path = places[place % len(places)]
    branch = forged
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = another(branch[path[-1]], choice)
    try:
        report = read_report(json.dumps(forged).encode())
    except ReportError:
        return
    assert not audit(report, roster=world.roster).holds, path


@settings(max_examples=40, deadline=None)
@given(
    chain=st.integers(0, 4),
    place=st.integers(0, 10_000),
    other=st.integers(0, 10_000),
    what=st.sampled_from(["drop", "double", "move"]),
)
def test_no_envelope_can_be_dropped_doubled_or_moved(chain, place, other, what, world, honest):
    forged = copy.deepcopy(honest)
    chains = [forged["proof"]["record"], *(ledger["entries"] for ledger in forged["proof"]["ledgers"])]
    envelopes = chains[chain]
    before = list(envelopes)
    taken = envelopes[place % len(envelopes)]
    if what != "double":
        del envelopes[place % len(envelopes)]
    if what != "drop":
        envelopes.insert(other % (len(envelopes) + 1), taken)
    if envelopes != before:
        assert not audit(read_report(json.dumps(forged).encode()), roster=world.roster).holds
