"""What a crash leaves is completed or refused; a charge is never lost."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedtrain.errors import LedgerError, StorageError
from fedtrain.ledger import read_chain
from fedtrain.ledger.chain import Chain
from fedtrain.ledger.journal import Content
from fedtrain.ledger.log import _recovered, _verify

ROOT = Path(__file__).parents[3]
DATASET = "d" * 64

PROGRAM = """
    import os, resource, signal, sys
    from pathlib import Path
    from fedtrain.crypto import Identity
    from fedtrain.errors import StorageError
    from fedtrain.ledger import Ledger
    from fedtrain.privacy import SampledGaussian
    folder, identity = Path(sys.argv[1]), Identity.load(Path(sys.argv[2]))
    event = SampledGaussian(sampling_rate=0.01, noise_multiplier=1.5, steps=10)
    def open_ledger(): return Ledger.open(folder, dataset="d" * 64, identity=identity)
    def reserve(ledger, number):
        return ledger.reserve(
            run="run", round_number=number, plan="a" * 64, model="b" * 64, event=event, repeatable=False,
            unit="record", noise="seeded"
        )
    """


def start(place, body):
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(body)
    command = [sys.executable, "-c", program, place.folder, place.folder.parent / "identity.pem"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def content(lines, tail=b"", intent=b""):
    return Content(lines=tuple(lines), tail=tail, intent=intent)


def split(data):
    *lines, tail = data.split(b"\n")
    return [line + b"\n" for line in lines], tail


def reading(place, lines, tail, intent):
    """Read what the files would hold, as opening does; return the entries."""
    envelopes, missing = _recovered(place.file, content(lines, tail, intent), place.identity)
    assert b"".join(lines) + tail + missing == b"".join(envelope.line() for envelope in envelopes)
    chain = Chain()
    _verify(place.file, chain, envelopes, place.identity)
    return tuple(chain.entries)


@pytest.mark.parametrize("status", ["reserved", "settled"])
def test_a_last_line_torn_anywhere_is_completed(filled, status):
    if status == "settled":
        with filled.open() as ledger:
            ledger.settle(ledger.entries[-1], "e" * 64)
    lines, _ = split(filled.file.read_bytes())
    whole = reading(filled, lines, b"", lines[-1])
    for cut in {*range(0, len(lines[-1]), 7), len(lines[-1]) - 1}:
        assert reading(filled, lines[:-1], lines[-1][:cut], lines[-1]) == whole
    assert whole[-1].status == status


@pytest.mark.parametrize("cut", [0, 1, 100, 500, -2, -1])
def test_a_torn_file_is_completed_on_the_disk(filled, cut):
    data, lines = filled.file.read_bytes(), filled.file.read_bytes().splitlines(keepends=True)
    os.truncate(filled.file, len(data) - len(lines[-1]) + cut % len(lines[-1]))
    with filled.open() as ledger:
        assert [entry.round for entry in ledger.entries if entry.status == "reserved"] == [1, 2, 3]
        assert filled.file.read_bytes() == data
        filled.reserve(ledger, 4)
    with filled.open() as ledger:
        assert len(ledger.entries) == 6


def test_a_first_line_torn_anywhere_is_completed(place):
    with place.open() as ledger:
        first = place.reserve(ledger)
    line = place.file.read_bytes()
    for cut in range(len(line)):
        assert reading(place, [], line[:cut], line) == (first,)


def test_an_intent_torn_anywhere_counts_as_none(filled):
    """The append had not begun: nothing was reserved, and the ledger is whole."""
    lines, _ = split(filled.file.read_bytes())
    for cut in range(0, len(lines[-1]), 5):
        for intent in (lines[-1][:cut], lines[-1][:cut] + lines[-3][cut:]):
            whole = intent == lines[-1]  # the two lines end alike
            assert len(reading(filled, lines[:-1], b"", intent)) == 4 + whole


def test_each_flipped_byte_is_refused(filled):
    lines, _ = split(filled.file.read_bytes())
    intent, data = lines[-1], b"".join(lines)
    for place in {*range(0, len(data), 3), len(data) - 1}:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(LedgerError, match=str(filled.file)):
            reading(filled, *split(bytes(damaged)), intent)


def test_each_flipped_byte_of_a_settled_line_is_refused(filled):
    with filled.open() as ledger:
        ledger.settle(ledger.entries[-1], "e" * 64)
    lines, _ = split(filled.file.read_bytes())
    start_of_last = sum(map(len, lines[:-1]))
    for place in range(start_of_last, start_of_last + len(lines[-1])):
        damaged = bytearray(b"".join(lines))
        damaged[place] ^= 4
        with pytest.raises(LedgerError):
            reading(filled, *split(bytes(damaged)), lines[-1])


def test_lines_lost_doubled_reordered_or_added_are_refused(filled):
    lines, _ = split(filled.file.read_bytes())
    for wrong in (
        [],
        lines[:-2],
        lines[1:],
        [*lines[:2], *lines[3:]],
        [*lines, lines[-1]],
        [*lines[:3], lines[2], *lines[3:]],
        [lines[1], lines[0], *lines[2:]],
        [b"\n", *lines],
        [*lines[:2], b"{}\n", *lines[2:]],
    ):
        with pytest.raises(LedgerError, match=r"Restore the file"):
            reading(filled, wrong, b"", lines[-1])
    for tail in (b"x", b"\0" * 10, lines[-1][:50], lines[-1][:-1]):
        with pytest.raises(LedgerError, match="after its last line"):
            reading(filled, lines, tail, lines[-1])
        with pytest.raises(LedgerError):
            reading(filled, lines, tail, b"")
    for tail in (b"x", b"\0" * 10, lines[-2][:700], lines[-1][:100] + b"\0"):
        with pytest.raises(LedgerError, match="not a part of the line that was being written"):
            reading(filled, lines[:-1], tail, lines[-1])


def test_another_line_in_the_place_of_the_last_is_refused(filled):
    """An older copy was put in place and written on: its last line is not the one that the intent knows."""
    lines, _ = split(filled.file.read_bytes())
    with filled.open() as ledger:
        filled.reserve(ledger, 4)
    later = filled.intent.read_bytes()
    assert len(reading(filled, lines, b"", later)) == 6
    os.truncate(filled.file, sum(map(len, lines[:-1])))
    filled.intent.write_bytes(b"")
    with filled.open() as ledger:
        filled.reserve(ledger, 5)
        filled.reserve(ledger, 6)
    forked, _ = split(filled.file.read_bytes())
    with pytest.raises(LedgerError, match="has another line"):
        reading(filled, forked, b"", later)
    with pytest.raises(LedgerError, match="an older copy was put in its place"):
        reading(filled, forked[:-1], b"", later)


def test_what_is_refused_is_left_as_it_is(filled):
    data, intent = filled.file.read_bytes(), filled.intent.read_bytes()
    for place in range(0, len(data), 401):
        damaged = bytearray(data)
        damaged[place] ^= 1
        filled.file.write_bytes(damaged)
        with pytest.raises(LedgerError):
            filled.open()
        assert filled.file.read_bytes() == damaged
        assert filled.intent.read_bytes() == intent


def test_a_process_killed_at_any_byte_never_loses_a_charge(filled):
    """The kernel kills the process at the first byte beyond a limit, on the ledger or on the intent."""
    process = start(
        filled,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        size = (folder / ("d" * 64 + ".jsonl")).stat().st_size
        for limit in range(size, size + 1300, 61):
            number = limit
            child = os.fork()
            if not child:
                with open_ledger() as ledger:
                    before = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
                    resource.setrlimit(resource.RLIMIT_FSIZE, (before + limit - size, before + limit - size))
                    reserve(ledger, number)
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            print(number, os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
        """,
    )
    out, _ = process.communicate(timeout=60)
    ended = dict(tuple(map(int, line.split())) for line in out.splitlines())
    assert len(ended) == 22
    assert set(ended.values()) == {0, signal.SIGXFSZ}
    with filled.open() as ledger:
        rounds = [entry.round for entry in ledger.entries if entry.status == "reserved" and entry.round > 3]
    # A process that was killed reserved all the same: its whole line was in the intent.
    assert rounds == list(ended)


def test_a_process_killed_while_it_writes_the_intent_reserved_nothing(place):
    process = start(
        place,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        for limit in (1, 10, 300, 700):
            child = os.fork()
            if not child:
                with open_ledger() as ledger:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                    reserve(ledger, limit)
            print(os.WTERMSIG(os.waitpid(child, 0)[1]), (folder / ("d" * 64 + ".intent")).stat().st_size)
        """,
    )
    out, _ = process.communicate(timeout=60)
    assert (
        out.split()
        == f"{signal.SIGXFSZ:d} 1 {signal.SIGXFSZ:d} 10 {signal.SIGXFSZ:d} 300 {signal.SIGXFSZ:d} 700".split()
    )
    with place.open() as ledger:
        assert ledger.entries == ()
        place.reserve(ledger)
    with place.open() as ledger:
        assert len(ledger.entries) == 1


def test_a_process_killed_at_any_time_never_loses_a_charge(place):
    body = """
        with open_ledger() as ledger:
            first = max([entry.round for entry in ledger.entries], default=0) + 1
        for number in range(first, 100_000):
            with open_ledger() as ledger:
                entry = reserve(ledger, number)
            print(number, flush=True)
            with open_ledger() as ledger:
                ledger.settle(entry, f"{number:064x}")
        """
    returned = []
    for count in range(1, 7):
        process = start(place, body)
        returned += [int(process.stdout.readline()) for _ in range(count)]
        process.kill()
        returned += [int(line) for line in process.communicate()[0].split()]
        with place.open() as ledger:
            reserved = [entry.round for entry in ledger.entries if entry.status == "reserved"]
            assert set(returned) <= set(reserved)
            # A reservation that did not return may be there too, one for each kill at most.
            assert len(set(reserved) - set(returned)) <= count
            assert len(read_chain(ledger.envelopes, place.identity.public)) == len(ledger.entries)


def test_a_full_disk_leaves_the_ledger_as_it_was(filled):
    process = start(
        filled,
        """
        with open_ledger() as ledger:
            size = (folder / ("d" * 64 + ".jsonl")).stat().st_size
            for more in (0, 1, 500):
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, resource.RLIM_INFINITY))
                for write in (lambda: reserve(ledger, 4), lambda: ledger.settle(ledger.entries[-1], "e" * 64)):
                    try: write()
                    except StorageError as error: print(error)
            assert len(ledger.entries) == 5
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            reserve(ledger, 5)
        """,
    )
    before = filled.file.read_bytes()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.splitlines() == [f"cannot append to {filled.file}: File too large; its previous lines are kept"] * 6
    assert filled.file.read_bytes().startswith(before)
    with filled.open() as ledger:
        assert [entry.round for entry in ledger.entries if entry.status == "reserved"] == [1, 2, 3, 5]


def test_a_disk_too_full_for_the_intent_leaves_the_ledger_as_it_was(place):
    process = start(
        place,
        """
        with open_ledger() as ledger:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
            try: reserve(ledger, 1)
            except StorageError as error: print(error)
        """,
    )
    out, _ = process.communicate(timeout=60)
    assert "File too large; its previous lines are kept" in out
    assert place.intent.read_bytes() == b""
    with place.open() as ledger:
        assert ledger.entries == ()


def test_a_line_that_cannot_be_completed_stays_torn(filled):
    data = filled.file.read_bytes()
    os.truncate(filled.file, len(data) - 300)
    process = start(
        filled,
        """
        size = (folder / ("d" * 64 + ".jsonl")).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
        try: open_ledger()
        except StorageError as error: print(error)
        """,
    )
    out, _ = process.communicate(timeout=60)
    assert "File too large" in out
    assert filled.file.read_bytes() == data[:-200]
    with filled.open() as ledger:
        assert len(ledger.entries) == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_leaves_the_ledger_as_it_was(filled):
    before = filled.file.read_bytes()
    with filled.open() as ledger:
        filled.file.chmod(0o400)
        with pytest.raises(StorageError, match="Permission denied"):
            filled.reserve(ledger, 4)
    filled.folder.chmod(0o000)
    with pytest.raises(StorageError, match="Permission denied"):
        filled.open()
    filled.folder.chmod(0o700)
    assert filled.file.read_bytes() == before
    filled.file.chmod(0o600)
    with filled.open() as ledger:
        assert len(ledger.entries) == 5


def test_a_long_ledger_is_opened(place):
    with place.open() as ledger:
        place.reserve(ledger)
    from fedtrain.crypto import SignedEnvelope
    from fedtrain.ledger.entry import PAYLOAD_TYPE

    envelopes, entry, previous = [], ledger.entries[0], "0" * 64
    for number in range(400):
        signed = entry.model_copy(update={"sequence": number, "previous": previous, "round": number})
        envelopes.append(SignedEnvelope.sign(PAYLOAD_TYPE, signed.encode(), place.identity))
        previous = envelopes[-1].digest
    place.file.write_bytes(b"".join(envelope.line() for envelope in envelopes))
    place.intent.write_bytes(envelopes[-1].line())
    with place.open() as ledger:
        assert len(ledger.entries) == 400


def test_a_first_line_of_which_nothing_was_written_is_completed(place):
    with place.open() as ledger:
        first = place.reserve(ledger)
    place.file.unlink()
    with place.open() as ledger:
        assert ledger.entries == (first,)
    with place.open() as ledger:
        assert ledger.entries == (first,)
