import pytest

from fedtrain.crypto import Identity
from fedtrain.errors import ForgeryError, LedgerError
from fedtrain.ledger import Ledger, LedgerCopyStore, SitePolicy
from fedtrain.privacy import SampledGaussian

EVENT = SampledGaussian(sampling_rate=0.5, noise_multiplier=2.0, steps=3)
POLICY = SitePolicy(epsilon=9.0, delta=1e-5)
DATASET, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def identity():
    return Identity.generate()


@pytest.fixture
def ledger(tmp_path, identity):
    """Give a function that opens the client's ledger of a data set."""
    return lambda dataset=DATASET, folder="own": Ledger.open(tmp_path / folder, dataset=dataset, identity=identity)


@pytest.fixture
def copies(tmp_path, identity):
    """Give a function that opens the server's copies."""
    return lambda: LedgerCopyStore(tmp_path / "copies", {3: identity.public})


def spend(ledger, *rounds):
    with ledger:
        for number in rounds:
            entry = ledger.reserve(
                run="r",
                round_number=number,
                plan="1" * 64,
                model="2" * 64,
                event=EVENT,
                repeatable=True,
                unit="record",
                noise="seeded",
            )
            ledger.settle(entry, "3" * 64)
        return ledger.envelopes, ledger.statement(run="r", round_number=max(rounds), policy=POLICY)


def test_what_is_shown_is_kept_over_a_restart(ledger, copies):
    envelopes, statement = spend(ledger(), 1, 2)
    first = copies()
    stated = first.receive(3, envelopes, statement, first=0)
    assert stated.sequence == first.length(3) == 4
    again = copies()
    assert again.envelopes(3) == envelopes
    assert (first.statement(3), again.statement(3)) == (statement, None)
    assert [entry.round for entry in again.entries(3)] == [1, 1, 2, 2]
    assert again.head(3).digest == envelopes[-1].digest


def test_only_what_is_new_is_added(ledger, copies):
    kept = copies()
    kept.receive(3, spend(ledger(), 1)[0], None, first=0)
    envelopes, _ = spend(ledger(), 2)
    kept.receive(3, envelopes, None, first=0)
    assert kept.length(3) == 4
    more, _ = spend(ledger(), 3)
    kept.receive(3, more[4:], None, first=4)
    kept.receive(3, (), None, first=6)
    assert copies().envelopes(3) == more


def test_entries_that_leave_a_gap_are_refused(ledger, copies):
    envelopes, _ = spend(ledger(), 1, 2)
    with pytest.raises(ForgeryError, match="shows entries from 2 on, and only 0 are known"):
        copies().receive(3, envelopes[2:], None, first=2)


def test_a_fork_is_refused(ledger, copies):
    kept = copies()
    kept.receive(3, spend(ledger(), 1)[0], None, first=0)
    other, _ = spend(ledger(folder="copy"), 2)
    with pytest.raises(ForgeryError, match=r"another entry 0 than before: its ledger has a fork"):
        kept.receive(3, other, None, first=0)
    assert kept.length(3) == 2


def test_a_ledger_that_lost_its_last_entries_is_refused(ledger, copies):
    kept = copies()
    envelopes, _ = spend(ledger(), 1, 2)
    kept.receive(3, envelopes, None, first=0)
    short, statement = spend(ledger(folder="older"), 1)
    with pytest.raises(ForgeryError):
        kept.receive(3, short[4:], statement, first=4)
    assert kept.statement(3) is None


def test_another_data_set_is_not_the_same_ledger(ledger, copies):
    kept = copies()
    kept.receive(3, spend(ledger(), 1)[0], None, first=0)
    other, _ = spend(ledger(OTHER), 1, 2)
    with pytest.raises(ForgeryError):
        kept.receive(3, other[2:], None, first=2)


def test_two_clients_cannot_have_one_data_set(tmp_path, ledger, identity):
    other = Identity.generate()
    kept = LedgerCopyStore(tmp_path / "copies", {3: identity.public, 4: other.public})
    kept.receive(3, spend(ledger(), 1)[0], None, first=0)
    envelopes, _ = spend(Ledger.open(tmp_path / "theirs", dataset=DATASET, identity=other), 1)
    with pytest.raises(ForgeryError, match="clients 3 and 4 show ledgers of the same data set"):
        kept.receive(4, envelopes, None, first=0)


def test_another_key_is_refused(tmp_path, copies):
    stranger = Ledger.open(tmp_path / "s", dataset=DATASET, identity=Identity.generate())
    envelopes, statement = spend(stranger, 1)
    with pytest.raises(ForgeryError, match="key"):
        copies().receive(3, envelopes, None, first=0)
    with pytest.raises(ForgeryError, match="key"):
        copies().receive(3, (), statement, first=0)


def test_a_statement_of_fewer_entries_than_are_shown_is_refused(ledger, copies):
    _, statement = spend(ledger(), 1)
    more, _ = spend(ledger(), 2)
    kept = copies()
    with pytest.raises(ForgeryError, match=r"states that its ledger has 2 entries, and shows 4"):
        kept.receive(3, more, statement, first=0)
    assert kept.length(3) == 0


def test_a_torn_line_is_forgotten_and_shown_again(tmp_path, ledger, copies):
    envelopes, _ = spend(ledger(), 1, 2)
    copies().receive(3, envelopes, None, first=0)
    file = tmp_path / "copies" / "client-0003.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    kept = copies()
    assert kept.length(3) == 3
    kept.receive(3, envelopes, None, first=0)
    assert copies().envelopes(3) == envelopes


def test_a_damaged_copy_is_named_with_what_to_do(tmp_path, ledger, copies):
    copies().receive(3, spend(ledger(), 1)[0], None, first=0)
    file = tmp_path / "copies" / "client-0003.jsonl"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    with pytest.raises(LedgerError, match=r"client-0003.jsonl is damaged: .*; remove it, and the client shows"):
        copies()
