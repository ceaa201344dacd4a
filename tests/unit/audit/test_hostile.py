"""Reports that nobody honest wrote: each gets an answer, soon, and never a traceback."""

import copy
import json
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedtrain.audit import CHECKS, audit
from fedtrain.audit.run import LIMITS
from fedtrain.cli.app import app
from fedtrain.privacy import PrivacyPlan
from fedtrain.report import Report
from tests.unit.audit.world import RECORD, World, chain, payload, spec

_HERE = "@@here@@"
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SECONDS = 30  # far more than any answer takes, and far less than what keeps a machine busy
_SETTINGS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=1000 * _SECONDS,
)

_NUMBERS = ("1e308", "1e-320", "5e-324", "1e15", "0.1", "-0.0", "-1", "0", "1", "2", "9007199254740991")
_NO_NUMBERS = ("1e400", "-1e400", "9007199254740992", "1" + 400 * "0", "-1" + 5000 * "0", "NaN", "-Infinity")
_TEXTS = ('""', '"x"', f'"{10**6 * "x"}"', f'"{64 * "f"}"', r'"\u0000\u001b[2J\r\nholds\u202e\u2028"', r'"\ud800"')
_TREES = (
    *("null", "true", "false", "[]", "{}", "[null]", "[[],[]]", '{"a":1}', r'{"\u001b[2J":1}'),
    *("[" * depth + "]" * depth for depth in (100, 190)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (100, 190)),
    *(json.dumps([0] * 1000), json.dumps(list(range(1000)))),
)
_NO_TREES = ("", "}", "\x00", '{"a":1,"a":2}', r'{"a":1,"\u0061":2}', "[" * 100_000, '{"a":' * 100_000)


def _places(tree, path=()):
    """Give the path of each leaf and subtree."""
    yield path
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, branch in branches:
        yield from _places(branch, (*path, name))


def _replaced(plain, path, value):
    """Give a copy with one value replaced."""
    if not path:
        return value
    root = copy.deepcopy(plain)
    tree = root
    for name in path[:-1]:
        tree = tree[name]
    tree[path[-1]] = value
    return root


@pytest.fixture(scope="module")
def worlds():
    """Give small federations with their honest reports."""
    few = {"clients": 2, "rounds": 2}
    plans = [PrivacyPlan(spec=spec(unit, **few), noise_multiplier=2.0) for unit in ("record", "client")]
    made = [World(plan=plan, **few, lost=(), refused=(), silent=()) for plan in plans]
    return [(world, world.report()) for world in made]


def _answered(world, folder, data, *, pinned=True):
    """Run the command on bytes, and return its exit status. Whatever they are, it ends as it should."""
    (folder / "report.json").write_bytes(data)
    world.roster.write(folder / "roster.json")
    roster = ["--roster", str(folder / "roster.json")] if pinned else []
    result = CliRunner().invoke(
        app, ["audit", str(folder / "report.json"), "--html", str(folder / "a.html"), *roster], catch_exceptions=False
    )
    assert result.exit_code in {0, 1, 2}
    assert not _UNPRINTABLE.search(result.output)
    assert len(result.output) < 100_000
    return result.exit_code


@settings(_SETTINGS, max_examples=50)
@given(
    which=st.integers(0, 1),
    literal=st.sampled_from(_NUMBERS + _NO_NUMBERS + _TEXTS + _TREES + _NO_TREES) | st.text(max_size=9).map(json.dumps),
    pinned=st.booleans(),
    data=st.data(),
)
def test_any_value_replaced_by_any_other_gets_an_answer(worlds, tmp_path, which, literal, pinned, data):
    world, plain = worlds[which]
    path = data.draw(st.sampled_from(list(_places(plain))))
    text = json.dumps(_replaced(plain, path, _HERE)).replace(f'"{_HERE}"', literal)
    _answered(world, tmp_path, text.encode(), pinned=pinned)


@pytest.mark.parametrize("literal", _NO_NUMBERS)
@pytest.mark.parametrize(
    "path",
    [
        ("seconds",),
        ("config", "seed"),
        ("data", "test_records"),
        ("evaluation", "final", "own"),
        ("privacy", "mechanism", "plan", "noise_multiplier"),
        ("proof", "record", 0, "payload"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_numbers_that_readers_tell_differently_are_refuted(worlds, tmp_path, path, literal):
    world, plain = worlds[0]
    text = json.dumps(_replaced(plain, path, _HERE)).replace(f'"{_HERE}"', literal)
    assert _answered(world, tmp_path, text.encode()) == 1


@settings(_SETTINGS, max_examples=20)
@given(which=st.integers(0, 1), literal=st.sampled_from(_NUMBERS + _TEXTS[:-1] + _TREES), data=st.data())
def test_whatever_the_server_signs_gets_an_answer(worlds, tmp_path, which, literal, data):
    world, plain = worlds[which]
    records = [payload(envelope) for envelope in plain["proof"]["record"]]
    path = data.draw(st.sampled_from([path for path in _places(records) if len(path) > 1]))
    signed = chain(RECORD, _replaced(records, path, json.loads(literal)), world.server)
    text = json.dumps({**plain, "proof": {**plain["proof"], "record": signed}})
    assert _answered(world, tmp_path, text.encode()) in {0, 1}


def test_what_cannot_be_computed_fails_its_own_check(worlds):
    world, plain = worlds[0]
    # read_report refuses this number; whoever reads a report in another way has no digest of it.
    report = Report.model_validate_json(json.dumps(_replaced(plain, ("config", "seed"), 2**60)))
    verdict = audit(report, roster=world.roster)
    checks = {check.name: check for check in verdict.checks}
    assert checks.keys() == {name for name, _ in (*CHECKS, *LIMITS)}
    assert checks["closing"].status == "fails"
    assert checks["closing"].detail.startswith("cannot be checked: ")
    assert checks["epsilon"].status == "holds"


@pytest.mark.parametrize(
    "ledgers",
    [
        [],
        [{"client": client, "entries": [], "statement": None} for client in range(100_000)],
        [{"client": 0, "entries": [], "statement": None}] * 100_000,
    ],
    ids=["none", "of strangers", "of one client"],
)
def test_any_number_of_ledgers_gets_an_answer(worlds, tmp_path, ledgers):
    world, plain = worlds[0]
    data = json.dumps(_replaced(plain, ("proof", "ledgers"), ledgers)).encode()
    began = time.monotonic()
    assert _answered(world, tmp_path, data) == 1
    assert time.monotonic() - began < _SECONDS


def test_an_object_of_many_keys_gets_an_answer(worlds, tmp_path):
    world, _ = worlds[0]
    data = "{" + ",".join(f'"{number}":0' for number in range(200_000)) + ',"199999":0}'
    began = time.monotonic()
    assert _answered(world, tmp_path, data.encode()) == 2
    assert time.monotonic() - began < _SECONDS
