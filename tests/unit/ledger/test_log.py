import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedtrain.crypto import Identity
from fedtrain.errors import LedgerError, PrivacySpecError, StorageError
from fedtrain.ledger import EMPTY, SitePolicy, read_chain, read_statement
from fedtrain.privacy import SampledGaussian
from tests.unit.ledger.conftest import EVENT

ROOT = Path(__file__).parents[3]


def test_a_ledger_keeps_what_was_reserved_and_settled(place):
    with place.open() as ledger:
        assert (ledger.entries, ledger.envelopes, ledger.head) == ((), (), EMPTY)
        first = place.reserve(ledger, 1)
        settled = ledger.settle(first, "e" * 64)
        second = place.reserve(ledger, 2)
    assert [entry.status for entry in (first, settled, second)] == ["reserved", "settled", "reserved"]
    assert settled.subject == first.subject
    assert (first.update, settled.update) == (None, "e" * 64)
    with place.open() as again:
        assert again.entries == (first, settled, second)
        assert again.head.sequence == 3
        assert read_chain(again.envelopes, place.identity.public) == again.entries
        assert b"".join(envelope.line() for envelope in again.envelopes) == place.file.read_bytes()


def test_what_can_be_repeated_is_reserved_once(place):
    with place.open() as ledger:
        first = place.reserve(ledger, repeatable=True)
        assert place.reserve(ledger, repeatable=True) == first
        ledger.settle(first, "e" * 64)
    with place.open() as ledger:
        assert place.reserve(ledger, repeatable=True) == first
        assert len(ledger.entries) == 2
        other = SampledGaussian(sampling_rate=0.01, noise_multiplier=1.5, steps=11)
        for change in ({"round_number": 2}, {"model": "c" * 64}, {"run": "other"}, {"event": other}):
            place.reserve(ledger, repeatable=True, **change)
        assert len(ledger.entries) == 6


def test_what_differs_in_unit_or_noise_is_not_the_same(place):
    with place.open() as ledger:
        first = place.reserve(ledger, repeatable=True)
        for change in ({"unit": "client"}, {"noise": "secure"}):
            other = place.reserve(ledger, repeatable=True, **change)
            assert other != first
            ledger.settle(other, "e" * 64)
            with pytest.raises(LedgerError, match="each reservation pays for one"):
                ledger.settle(other, "f" * 64)
        assert ledger.settle(first, "d" * 64).charge == first.charge
    with place.open() as ledger:
        assert len(ledger.entries) == 6


def test_the_first_reservation_of_a_subject_is_found(place):
    subject = {"run": "run", "round_number": 1, "plan": "a" * 64, "model": "b" * 64, "event": EVENT}
    with place.open() as ledger:
        assert ledger.reserved(**subject) is None
        first = place.reserve(ledger)
        place.reserve(ledger)
        ledger.settle(first, "e" * 64)
        assert ledger.reserved(**subject) == first
        other = SampledGaussian(sampling_rate=0.01, noise_multiplier=1.5, steps=11)
        for change in (
            {"round_number": 2},
            {"run": "other"},
            {"plan": "b" * 64},
            {"model": "c" * 64},
            {"event": other},
        ):
            assert ledger.reserved(**subject | change) is None


def test_what_cannot_be_repeated_is_reserved_each_time(place):
    with place.open() as ledger:
        assert place.reserve(ledger) != place.reserve(ledger)
        assert len(ledger.entries) == 2


def test_a_reservation_is_settled_once(place):
    with place.open() as ledger:
        first = place.reserve(ledger)
        settled = ledger.settle(first, "e" * 64)
        assert ledger.settle(first, "e" * 64) == settled
        with pytest.raises(LedgerError, match=r"settled with another update \(e{64}\).*this one \(f{64}\) is not sent"):
            ledger.settle(first, "f" * 64)
        assert len(ledger.entries) == 2
        place.reserve(ledger)
        ledger.settle(first, "f" * 64)
        with pytest.raises(LedgerError, match="each reservation pays for one"):
            ledger.settle(first, "1" * 64)


def test_what_was_not_reserved_is_not_settled(place, tmp_path):
    with place.open() as ledger:
        first = place.reserve(ledger)
    with place.open(dataset="1" * 64) as other, pytest.raises(LedgerError, match="never reserved"):
        other.settle(first, "e" * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "short"},
        {"model": "B" * 64},
        {"run": ""},
        {"round_number": -1},
    ],
)
def test_what_no_entry_may_hold_is_refused_and_not_written(place, change):
    with place.open() as ledger:
        with pytest.raises(ValidationError):
            place.reserve(ledger, **change)
        with pytest.raises(ValidationError):
            ledger.settle(place.reserve(ledger), "short")
        assert len(ledger.entries) == 1
    with place.open() as ledger:
        assert len(ledger.entries) == 1


def test_a_statement_says_where_the_ledger_ends(place):
    with place.open() as ledger:
        empty = read_statement(place.state(ledger, 0), place.identity.public)
        assert (empty.sequence, empty.head, empty.refusal) == (0, EMPTY.digest, None)
        place.reserve(ledger)
        signed = place.state(ledger, 3, refusal="too much")
        statement = read_statement(signed, place.identity.public)
        assert (statement.sequence, statement.head) == (1, ledger.envelopes[-1].digest)
        assert (statement.run, statement.round, statement.refusal) == ("run", 3, "too much")
        assert statement.dataset == ledger.entries[0].dataset
        assert (statement.epsilon, statement.delta) == (8.0, 1e-5)
        other = place.state(ledger, 3, policy=SitePolicy(epsilon=0.5, delta=1e-6))
        statement = read_statement(other, place.identity.public)
        assert (statement.epsilon, statement.delta) == (0.5, 1e-6)


def test_an_open_ledger_keeps_others_out_and_says_so(place):
    with place.open(), pytest.raises(LedgerError, match=r"another process has held the ledger .* 0.05 s.*fuser"):
        place.open(timeout=0.05)
    with place.open(timeout=0.05):
        pass


def test_a_ledger_that_failed_to_open_is_not_locked(filled):
    good = filled.file.read_bytes()
    filled.file.write_bytes(b"x" + good)
    with pytest.raises(LedgerError):
        filled.open()
    filled.file.write_bytes(good)
    with filled.open(timeout=0.05) as ledger:
        assert len(ledger.entries) == 5


def test_a_closed_ledger_is_not_written(place):
    with place.open() as ledger:
        pass
    with pytest.raises(LedgerError, match="closed"):
        place.reserve(ledger)
    with pytest.raises(LedgerError, match="closed"):
        place.state(ledger, 1)
    assert not place.file.exists()
    assert not place.stated.exists()


def test_another_key_is_refused(filled):
    with pytest.raises(LedgerError, match=r"not this client's ledger: entry 0: it is signed with key"):
        filled.open(identity=Identity.generate())


def test_another_data_sets_ledger_is_refused(filled):
    other = filled.file.with_name(f"{'1' * 64}.jsonl")
    filled.file.rename(other)
    with pytest.raises(LedgerError, match=r"is the ledger of another data set, d{64}"):
        filled.open(dataset="1" * 64)


def test_a_file_that_changes_while_it_is_open_is_not_written(filled):
    with filled.open() as ledger:
        before = filled.file.read_bytes()
        filled.file.write_bytes(before[:-100])
        with pytest.raises(LedgerError, match=f"{filled.file} had {len(before)} bytes and now has {len(before) - 100}"):
            filled.reserve(ledger, 4)
        assert filled.file.read_bytes() == before[:-100]
        assert len(ledger.entries) == 5


def test_places_that_cannot_hold_a_ledger_are_named(place, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot lock the ledger"):
        place.open().open(tmp_path / "file", dataset="d" * 64, identity=place.identity)
    place.file.mkdir(parents=True)
    with pytest.raises(StorageError, match=f"cannot read {place.file}: Is a directory"):
        place.open()


def test_two_processes_share_a_ledger(place, tmp_path):
    program = """
        import sys
        from pathlib import Path
        from fedtrain.crypto import Identity
        from fedtrain.ledger import Ledger
        from fedtrain.privacy import SampledGaussian
        folder, key, run = sys.argv[1:]
        identity = Identity.load(Path(key))
        event = SampledGaussian(sampling_rate=0.01, noise_multiplier=1.5, steps=10)
        for number in range(1, 9):
            with Ledger.open(Path(folder), dataset="d" * 64, identity=identity) as ledger:
                entry = ledger.reserve(run=run, round_number=number, plan="a" * 64, model="b" * 64, event=event,
                                       repeatable=False, unit="record", noise="seeded")
            with Ledger.open(Path(folder), dataset="d" * 64, identity=identity) as ledger:
                ledger.settle(entry, f"{number:064x}")
        """
    command = [sys.executable, "-c", textwrap.dedent(program), place.folder, tmp_path / "identity.pem"]
    processes = [subprocess.Popen([*command, run], cwd=ROOT) for run in ("one", "two")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    with place.open() as ledger:
        for run in ("one", "two"):
            for status in ("reserved", "settled"):
                rounds = [entry.round for entry in ledger.entries if (entry.run, entry.status) == (run, status)]
                assert rounds == list(range(1, 9))
        assert len(read_chain(ledger.envelopes, place.identity.public)) == 32


def test_an_event_that_no_accountant_composes_is_not_charged(place):
    class Laplace(SampledGaussian):
        kind = "laplace"

    event = Laplace(sampling_rate=1.0, noise_multiplier=1.0, steps=1)
    with place.open() as ledger:
        with pytest.raises(PrivacySpecError, match="events of kind 'laplace' cannot be charged: no accountant"):
            place.reserve(ledger, event=event)
        assert ledger.entries == ()
    assert not place.file.exists() or place.file.read_bytes() == b""
