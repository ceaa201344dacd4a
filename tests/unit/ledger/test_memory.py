import os

import pytest

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import LedgerError
from fedtrain.ledger import log
from fedtrain.ledger.chain import Chain, VerifiedLedger, VerifiedLedgers


@pytest.fixture
def verified(monkeypatch):
    """The signatures that are verified, as they are."""
    seen = []
    verify = SignedEnvelope.verify_own

    def watched(envelope, identity, payload_type):
        seen.append(envelope.signature)
        return verify(envelope, identity, payload_type)

    monkeypatch.setattr(SignedEnvelope, "verify_own", watched)
    return seen


def forget(monkeypatch):
    """Be as a process that has just started."""
    monkeypatch.setattr(log, "_MEMORY", VerifiedLedgers(limit=2**20))


def test_what_this_process_wrote_is_not_verified_again(filled, verified):
    for _ in range(2):
        verified.clear()
        with filled.open() as ledger:
            assert len(ledger.entries) == 5
        # Of the five lines none, and not the intent, which is the last of them.
        assert not verified


def test_an_intent_that_is_not_the_last_line_is_verified(filled, verified):
    last = filled.intent.read_bytes()
    with filled.open() as ledger:
        earlier = ledger.envelopes[1].line()
    verified.clear()
    for intent, times in ((earlier, 1), (last[:-2] + b" \n", 0), (last, 0)):
        filled.intent.write_bytes(intent)
        verified.clear()
        with filled.open() as ledger:
            assert len(ledger.entries) == 5
        assert len(verified) == times


def test_another_process_begins_with_nothing(filled, verified, monkeypatch):
    forget(monkeypatch)
    with filled.open():
        assert len(verified) == 6


def test_of_what_another_process_added_only_that_is_verified(filled, verified, monkeypatch):
    mine = log._MEMORY
    forget(monkeypatch)
    with filled.open() as ledger:
        filled.reserve(ledger, 4)
    monkeypatch.setattr(log, "_MEMORY", mine)
    verified.clear()
    with filled.open() as ledger:
        assert [entry.round for entry in ledger.entries] == [1, 1, 2, 2, 3, 4]
        assert ledger.totals.reservations("run") == 4
        assert len(verified) == 2


@pytest.mark.parametrize("where", [3, 700, 1500, -200])
def test_a_byte_that_changes_is_found_although_size_and_times_are_as_before(filled, where):
    data, status = bytearray(filled.file.read_bytes()), filled.file.stat()
    data[where] ^= 1
    filled.file.write_bytes(data)
    os.utime(filled.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(LedgerError, match="damaged"):
        filled.open()
    data[where] ^= 1
    filled.file.write_bytes(data)
    with filled.open() as ledger:
        assert len(ledger.entries) == 5


def test_an_older_copy_is_found(filled):
    older = filled.file.read_bytes()
    with filled.open() as ledger:
        filled.reserve(ledger, 4)
        filled.reserve(ledger, 5)
    filled.file.write_bytes(older)
    with pytest.raises(LedgerError, match=r"ends after 5 entries, and .* holds entry 6 of it"):
        filled.open()


def test_an_intent_of_an_earlier_line_is_known(filled):
    lines = filled.file.read_bytes().splitlines(keepends=True)
    for line in (lines[1], lines[4]):
        filled.intent.write_bytes(line)
        with filled.open() as ledger:
            assert len(ledger.entries) == 5


def test_a_torn_line_after_known_ones_is_completed(filled):
    data = filled.file.read_bytes()
    os.truncate(filled.file, len(data) - 20)
    with filled.open() as ledger:
        assert len(ledger.entries) == 5
    assert filled.file.read_bytes() == data


def test_the_ledger_of_another_key_in_its_place_is_refused(filled):
    with pytest.raises(LedgerError, match="not this client's ledger"):
        filled.open(identity=Identity.generate())


def test_an_empty_ledger_in_the_place_of_a_known_one_is_an_empty_one(filled):
    filled.file.unlink()
    filled.intent.unlink()
    with filled.open() as ledger:
        assert (ledger.entries, ledger.totals.events) == ((), ())


def test_the_entries_of_a_closed_ledger_are_those_that_it_had(filled):
    with filled.open() as before:
        pass
    with filled.open() as after:
        filled.reserve(after, 4)
    assert (len(before.entries), before.head.sequence, len(before.envelopes)) == (5, 5, 5)
    assert len(after.entries) == 6


def test_entries_are_shown_from_any_place(filled):
    with filled.open() as ledger:
        whole = ledger.envelopes
        for first in range(8):
            assert ledger.envelopes_from(first) == whole[first:]
        assert ledger.envelopes_from(-3) == whole


def test_what_is_more_than_is_kept_is_forgotten_the_oldest_first(tmp_path):
    identity, memory = Identity.generate(), VerifiedLedgers(limit=10)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        memory.keep(path, identity, VerifiedLedger(lines=bytearray(b"1234"), chain=Chain()))
    assert [len(memory.take(path, identity).lines) for path in paths] == [0, 4, 4]
    assert [len(memory.take(path, identity).lines) for path in paths] == [0, 0, 0]
    memory.keep(paths[0], identity, VerifiedLedger(lines=bytearray(b"12345678901")))
    assert memory.take(paths[0], identity).lines == b""
    memory.keep(paths[0], identity, VerifiedLedger(lines=bytearray(b"1234567890")))
    assert memory.take(paths[0], Identity.generate()).lines == b""
    assert len(memory.take(paths[0], identity).lines) == 10


@pytest.mark.parametrize("elsewhere", [False, True])
def test_others_use_a_ledger_that_is_released_and_what_they_add_is_taken_over(filled, monkeypatch, verified, elsewhere):
    with filled.open() as ledger:
        mine = filled.reserve(ledger, 4)
        with ledger.released():
            with monkeypatch.context() as patch:
                if elsewhere:  # in another process
                    forget(patch)
                with filled.open(timeout=0.05) as other:
                    theirs = filled.reserve(other, 4, run="other")
            verified.clear()
            with pytest.raises(LedgerError, match="closed"):
                filled.reserve(ledger, 5)
        # The line that this process has not verified, and the intent, which is that line.
        assert len(verified) == 2 * elsewhere
        assert ledger.entries[-2:] == (mine, theirs)
        ledger.settle(mine, "e" * 64)
        with pytest.raises(LedgerError, match="another process has held"):
            filled.open(timeout=0.05)
    with filled.open() as again:
        assert [entry.run for entry in again.entries[-3:]] == ["run", "other", "run"]


def test_a_block_that_fails_leaves_a_released_ledger_closed(filled):
    with filled.open() as ledger:
        with pytest.raises(RuntimeError), ledger.released():
            raise RuntimeError
        with filled.open(timeout=0.05):
            pass
        with pytest.raises(LedgerError, match="closed"), ledger.released():
            pass


@pytest.mark.parametrize("what", ["older", "gone"])
def test_a_ledger_that_was_replaced_while_it_was_released_is_refused(filled, what):
    older = filled.file.read_bytes(), filled.intent.read_bytes()

    def replace(file, intent):
        if what == "gone":
            filled.file.unlink()
            filled.intent.unlink()
        else:
            filled.file.write_bytes(file)
            filled.intent.write_bytes(intent)

    with filled.open() as ledger:
        mine = filled.reserve(ledger, 4)
        replaced = r"was replaced or cut while the client trained: its first 6 entries are not those of before"
        with pytest.raises(LedgerError, match=replaced), ledger.released():
            replace(*older)
        with pytest.raises(LedgerError, match="closed"):
            ledger.settle(mine, "e" * 64)
        with filled.open(timeout=0.05):
            pass


@pytest.mark.parametrize("after", ["totals", "chain"])
def test_an_interrupt_within_an_append_leaves_nothing_half_known(filled, monkeypatch, after):
    append = Chain.append

    def interrupted(chain, entry, envelope):
        chain.totals.add(entry) if after == "totals" else append(chain, entry, envelope)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, filled.open() as ledger:
        patch.setattr(Chain, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            filled.reserve(ledger, 4)
    with filled.open() as ledger:
        (made,) = (entry for entry in ledger.entries if entry.round == 4)
        assert ledger.totals.unsettled(made) == 1
        ledger.settle(made, "e" * 64)
        with pytest.raises(LedgerError, match="was settled with another update"):
            ledger.settle(made, "f" * 64)


def test_a_ledger_that_was_damaged_while_it_was_released_is_not_written(filled):
    with filled.open() as ledger:
        mine = filled.reserve(ledger, 4)
        lines = filled.file.read_bytes().splitlines(keepends=True)
        with pytest.raises(LedgerError, match="entries were removed, or an older copy"), ledger.released():
            filled.file.write_bytes(b"".join(lines[:-2]))
        with pytest.raises(LedgerError, match="closed"):
            ledger.settle(mine, "e" * 64)
