import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.ledger import Asked, Closed, Completed, Drop, FirstRecord, RunLog, SecureSum, Update, read_records
from fedtrain.ledger.entry import PAYLOAD_TYPE as ENTRY_TYPE
from fedtrain.ledger.record import PAYLOAD_TYPE, read_own_records

ROOT = Path(__file__).parents[3]
A, B = "a" * 64, "b" * 64
IDENTITY = Identity.generate()
FIRST_RECORD = FirstRecord(
    run="run",
    mode="record",
    config=A,
    plan={"kind": "poisson-sampled-gaussian", "noise_multiplier": 1.5, "spec": {"epsilon": 8.0, "delta": 1e-5}},
    noise="secure",
    roster=A,
    clients=3,
    rounds=5,
    fedtrain="0.1.0",
)
ASKED = Asked(round=1, cohort=(0, 2), model=A, sealed=True, secagg=True)
COMPLETED = Completed(
    round=1,
    model=A,
    updates=(Update(client=0, update=B, sequence=2, head=A),),
    dropped=(Drop(client=2, reason='no reply in 5 s: "größer"'),),
    sealed=True,
    secagg=SecureSum(threshold=2, neighbours=1, bits=16, silent=(0,)),
    aggregate=B,
    clip_norm=1.0,
)
CLOSED = Closed(status="completed", rounds=1, report=B)


def filled(path, *records):
    log = RunLog.open(path, IDENTITY)
    for record in records:
        log.append(record)
    return log


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.jsonl"


def test_a_record_is_kept(path):
    log = filled(path, FIRST_RECORD, ASKED, COMPLETED, CLOSED)
    again = RunLog.open(path, IDENTITY)
    assert again.records == log.records
    assert again.envelopes == log.envelopes
    assert read_records(log.envelopes, IDENTITY.public) == log.records
    assert [record.kind for record in log.records] == ["opened", "asked", "completed", "closed"]
    assert [record.sequence for record in log.records] == [0, 1, 2, 3]
    unlinked = {"sequence", "previous", "time"}
    assert log.records[2].model_dump(exclude=unlinked) == COMPLETED.model_dump(exclude=unlinked)


def test_a_record_is_returned_as_it_was_signed(path):
    log = filled(path, FIRST_RECORD)
    assert log.append(ASKED) == log.records[-1]
    assert log.records[-1].previous == log.envelopes[0].digest


def test_a_record_keeps_the_time_that_it_was_given(path):
    times = ("2026-01-02T03:04:05Z", "2001-02-03T04:05:06Z")
    log = RunLog.open(path, IDENTITY)
    log.append(FIRST_RECORD.model_copy(update={"time": times[0]}))
    log.append(Asked(**ASKED.model_dump(exclude={"time"}), time=times[1]))
    log.append(COMPLETED)
    records = RunLog.open(path, IDENTITY).records
    assert records == log.records
    assert tuple(record.time for record in records[:2]) == times
    assert records[2].time not in {"", *times}


def test_a_run_goes_on_after_it_was_closed(path):
    filled(path, FIRST_RECORD, ASKED, Closed(status="interrupted", rounds=0, report=B))
    assert len(filled(path, ASKED, COMPLETED, CLOSED).records) == 6


def test_a_run_is_opened_once_and_first(path):
    log = RunLog.open(path, IDENTITY)
    with pytest.raises(ValueError, match="the first record opens the run"):
        log.append(ASKED)
    log.append(FIRST_RECORD)
    with pytest.raises(ValueError, match="the first record opens the run"):
        log.append(FIRST_RECORD)
    assert len(RunLog.open(path, IDENTITY).records) == 1


@pytest.mark.parametrize("keep", [0, 1, 400, -1])
def test_a_line_that_a_crash_tore_is_removed(path, keep):
    whole = filled(path, FIRST_RECORD, ASKED).envelopes[-1].line()
    path.write_bytes(path.read_bytes()[: -len(whole)] + whole[: keep % len(whole)])
    log = RunLog.open(path, IDENTITY)
    assert len(log.records) == 1
    log.append(ASKED)
    assert len(RunLog.open(path, IDENTITY).records) == 2


def test_each_flipped_byte_of_a_line_is_refused(path):
    filled(path, FIRST_RECORD, ASKED, COMPLETED)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    for place in range(0, len(data) - len(lines[-1]), 5):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(LedgerError, match=f"the record {path} is damaged"):
            RunLog.open(path, IDENTITY)


def test_lines_left_out_doubled_or_reordered_are_refused(path):
    a, b, c, d = filled(path, FIRST_RECORD, ASKED, COMPLETED, CLOSED).envelopes
    for wrong, place in (([b], 0), ([a, c], 1), ([a, b, d], 2), ([a, b, b], 2), ([b, a], 0), ([a, a], 1)):
        for read in (
            lambda wrong: read_records(wrong, IDENTITY.public),
            lambda wrong: read_own_records(wrong, IDENTITY),
        ):
            with pytest.raises(ForgeryError, match=f"record {place} of the run: it is in the place"):
                read(wrong)
        path.write_bytes(b"".join(envelope.line() for envelope in wrong))
        with pytest.raises(LedgerError, match="is damaged, or is not of this server"):
            RunLog.open(path, IDENTITY)


def sign(record, identity=IDENTITY, payload_type=PAYLOAD_TYPE, **changes):
    return SignedEnvelope.sign(payload_type, canonical(record.model_dump(mode="json") | changes), identity)


TIME = {"time": "2026-01-02T03:04:05Z"}


def test_a_record_from_elsewhere_is_refused(path):
    first = sign(FIRST_RECORD, **TIME)
    link = {"sequence": 1, "previous": first.digest, **TIME}
    assert len(read_records([first, sign(ASKED, **link)], IDENTITY.public)) == 2
    for wrong, why in (
        ([first, sign(ASKED, Identity.generate(), **link)], "record 1 of the run: it is signed with key"),
        ([first, sign(ASKED, payload_type=ENTRY_TYPE, **link)], "record 1 of the run: the envelope is of type"),
        ([first, sign(ASKED, **link | {"previous": A})], "record 1 of the run: it does not follow the line before it"),
        ([first, sign(FIRST_RECORD, **link)], "record 1 of the run: the first record opens the run, and no other does"),
        ([sign(ASKED, **TIME)], "record 0 of the run: the first record opens the run"),
    ):
        with pytest.raises(ForgeryError, match=why):
            read_records(wrong, IDENTITY.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"kind": None},
        {"more": 1},
        {"time": ""},
        {"round": -1},
        {"cohort": [0, -1]},
        {"cohort": None},
        {"cohort": [0.5]},
        {"model": "A" * 64},
        {"sealed": None},
        {"sealed": 1},
        {"secagg": None},
        {"secagg": 0},
    ],
)
def test_a_malformed_record_is_refused(changes):
    first = sign(FIRST_RECORD, **TIME)
    wrong = sign(ASKED, **{"sequence": 1, "previous": first.digest} | TIME | changes)
    with pytest.raises(ForgeryError, match="record 1 of the run: the payload is malformed"):
        read_records([first, wrong], IDENTITY.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"sealed": None},
        {"sealed": 1},
        {"secagg": {}},
        {"secagg": {"threshold": 2, "neighbours": 1, "bits": 16}},
        {"secagg": {"threshold": 2, "neighbours": 1, "bits": 16, "silent": [-1]}},
        {"secagg": {"threshold": 2.5, "neighbours": 1, "bits": 16, "silent": []}},
        {"secagg": {"threshold": 2, "neighbours": 1, "bits": 16, "silent": [], "more": 1}},
    ],
)
def test_a_malformed_transport_is_refused(changes):
    first = sign(FIRST_RECORD, **TIME)
    link = {"sequence": 1, "previous": first.digest} | TIME
    assert len(read_records([first, sign(COMPLETED, **link)], IDENTITY.public)) == 2
    assert len(read_records([first, sign(COMPLETED, **link, secagg=None)], IDENTITY.public)) == 2
    with pytest.raises(ForgeryError, match="record 1 of the run: the payload is malformed"):
        read_records([first, sign(COMPLETED, **link, **changes)], IDENTITY.public)


@pytest.mark.parametrize("name", ["sealed", "secagg"])
@pytest.mark.parametrize("record", [ASKED, COMPLETED], ids=["asked", "completed"])
def test_a_round_says_what_its_transport_is(record, name):
    first = sign(FIRST_RECORD, **TIME)
    data = record.model_dump(mode="json") | {"sequence": 1, "previous": first.digest} | TIME
    del data[name]
    with pytest.raises(ForgeryError, match=f"malformed.*{name}"):
        read_records([first, SignedEnvelope.sign(PAYLOAD_TYPE, canonical(data), IDENTITY)], IDENTITY.public)


@pytest.mark.parametrize("name", ["kind", "sequence", "previous", "time", "run", "plan"])
def test_nothing_may_be_left_out(name):
    data = FIRST_RECORD.model_dump(mode="json") | TIME
    del data[name]
    with pytest.raises(ForgeryError, match=f"malformed.*{name if name != 'kind' else ''}"):
        read_records([SignedEnvelope.sign(PAYLOAD_TYPE, canonical(data), IDENTITY)], IDENTITY.public)


def test_no_number_without_a_value_is_recorded():
    with pytest.raises(ValidationError):
        Completed(
            round=1, model=A, updates=(), dropped=(), sealed=True, secagg=None, aggregate=B, clip_norm=float("nan")
        )


def test_another_servers_record_is_refused(path):
    filled(path, FIRST_RECORD)
    with pytest.raises(LedgerError, match="is not of this server"):
        RunLog.open(path, Identity.generate())


def test_a_place_that_cannot_hold_a_record_is_named(tmp_path):
    with pytest.raises(StorageError, match=f"cannot read {tmp_path}"):
        RunLog.open(tmp_path, IDENTITY)


def test_a_full_disk_leaves_the_record_as_it_was(path, tmp_path):
    identity = Identity.load_or_create(tmp_path / "key")
    RunLog.open(path, identity).append(FIRST_RECORD)
    program = """
        import resource, sys
        from pathlib import Path
        from fedtrain.crypto import Identity
        from fedtrain.errors import StorageError
        from fedtrain.ledger import Asked, RunLog
        path, key = map(Path, sys.argv[1:])
        log = RunLog.open(path, Identity.load(key))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))
        try: log.append(Asked(round=1, cohort=(0,), model="a" * 64, sealed=False, secagg=False))
        except StorageError as error: print(len(log.records), error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.append(Asked(round=2, cohort=(0,), model="a" * 64, sealed=False, secagg=False))
        """
    command = [sys.executable, "-c", textwrap.dedent(program), path, tmp_path / "key"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"1 cannot append to {path}: File too large; its previous lines are kept\n"
    assert [getattr(record, "round", None) for record in RunLog.open(path, identity).records] == [None, 2]
