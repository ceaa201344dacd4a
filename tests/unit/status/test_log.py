import fcntl
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fedtrain.errors import StorageError
from fedtrain.status import Answered, Asked, Begun, Done, Ended, EventLog, Follower, Note
from fedtrain.status.lines import SCHEMA, cut, decode, finite, numbers


def begun(**values):
    fixed = {"time": 100.0, "name": "demo", "mode": "none", "rounds": 3, "done": 0, "clients": 2, "deadline": 60.0}
    return Begun(**(fixed | values))


LINES = [
    begun(names={0: "Mercy", 1: "General"}, epsilon=2.0, delta=1e-3, budgets={1: 8.0}, metric="accuracy", baseline=0.1),
    Asked(time=101.0, round=1, clients=2, cohort=(0, 1)),
    Answered(time=101.0, round=1, answered=1, client=1),
    Done(time=103.0, round=1, clients=2, completed=1, seconds=2.0, value=0.5, epsilon=0.7, spent={1: 0.7}),
    Note(time=103.0, text="client 0 does not take part"),
    Ended(time=104.0, status="failed", reason="why", round=1),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.event)
def test_a_line_is_read_as_it_was_written(line):
    encoded = line.encode()
    assert encoded.count(b"\n") == 1
    assert decode(encoded) == line


def test_what_is_not_known_is_passed_over_and_what_is_no_event_is_refused():
    assert decode(b'{"event":"of another version","time":1}') is None
    assert decode(b'{"event":"notice","time":1,"text":"x","more":[]}') == Note(time=1.0, text="x")
    for wrong in (b"", b"[]", b'{"event":"notice"}', b'{"event":"notice","time":NaN,"text":"x"}', b"\xff"):
        with pytest.raises(ValueError, match="no event of a run"):
            decode(wrong)


def test_a_follower_sees_what_is_written_and_whether_anybody_writes(path):
    follower = Follower(path)
    assert follower.status() is None
    with EventLog(path) as log:
        log.begin(LINES[0])
        assert (path.stat().st_mode & 0o777) == 0o600
        first = follower.status()
        assert (first.state, first.round, first.alive) == ("running", 0, True)
        for line in LINES[1:4]:
            log.append(line)
        then = follower.status()
        assert (then.round, then.value, then.spent, then.alive) == (1, 0.5, {1: 0.7}, True)
    assert follower.status().state == "gone"
    with EventLog(path) as log:
        log.begin(begun(done=1))
        assert follower.status().state == "running"
        log.append(LINES[5])
    ended = follower.status()
    assert (ended.state, ended.reason, ended.value) == ("failed", "why", 0.5)


def test_a_server_that_is_killed_lets_go_of_its_file(path):
    program = (
        "import os, sys; from pathlib import Path; from fedtrain.status import *\n"
        "begun = Begun(time=1, name='x', mode='none', rounds=1, done=0, clients=1, deadline=1)\n"
        "EventLog(Path(sys.argv[1])).begin(begun)\n"
        "print('begun', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "begun\n"
        follower = Follower(path)
        assert follower.status().state == "running"
        process.kill()
        process.wait()
        assert follower.status().state == "gone"


def test_a_line_that_a_kill_or_a_full_disk_tore_is_passed_over(path):
    with EventLog(path) as log:
        log.begin(LINES[0])
    whole = path.read_bytes()
    path.write_bytes(whole + LINES[1].encode()[:20])
    follower = Follower(path)
    assert follower.status().round == 0
    with EventLog(path) as log:
        log.begin(begun(done=1))
        log.append(LINES[4])
    assert follower.status().notices == ("client 0 does not take part",)
    assert Follower(path).status().notices == ("client 0 does not take part",)


@contextmanager
def full(size):
    """Let no file of this process grow above a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_a_full_disk_tore_harms_no_line_after_it(path):
    with EventLog(path) as log:
        log.begin(LINES[0])
        with full(path.stat().st_size + 10), pytest.raises(StorageError, match="cannot write"):
            log.append(LINES[1])
        log.append(LINES[4])
    assert path.read_bytes().count(b"\n") == 3
    assert Follower(path).status().notices == ("client 0 does not take part",)


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J", "\N{RIGHT-TO-LEFT OVERRIDE}", "x" * 1000])
def test_whatever_a_text_holds_is_a_line(text):
    line = decode(Note(time=1.0, text=cut(text)).encode())
    assert line.text.isprintable()
    assert len(line.text) <= 500


def test_numbers_that_a_line_cannot_have_are_left_out():
    assert (finite(None), finite(float("inf")), finite(float("nan")), finite(0.5)) == (None, None, None, 0.5)
    assert numbers({0: 1.0, 1: float("inf")}) == {0: 1.0}
    assert numbers(dict.fromkeys(range(1001), 1.0)) == {}


def test_a_file_stays_below_its_bound_and_keeps_its_beginning(path):
    follower = Follower(path)
    with EventLog(path, largest=4000) as log:
        log.begin(LINES[0])
        for number in range(1, 200):
            log.append(Done(time=1.0, round=number, clients=2, completed=2, seconds=0.1))
            assert path.stat().st_size < 4200
            assert follower.status().done == number
            assert (follower.status().alive, path.stat().st_mode & 0o777) == (True, 0o600)
    assert list(path.parent.iterdir()) == [path]
    late = Follower(path).status()
    assert (late.begun, late.done) == (LINES[0], 199)
    assert [entry.round for entry in late.history] == list(range(late.history[0].round, 200))
    assert 5 < len(late.history) < 199


def test_a_file_of_another_version_is_refused(path):
    path.write_bytes(begun().encode().replace(SCHEMA.encode(), b"fedtrain.events/9"))
    with pytest.raises(StorageError, match=r"another version of fedtrain: its schema is 'fedtrain.events/9'"):
        Follower(path).status()


def test_a_file_that_cannot_be_written_is_named(path):
    path.mkdir()
    with pytest.raises(StorageError, match=r"cannot open .*events.jsonl"):
        EventLog(path).begin(LINES[0])
    with pytest.raises(StorageError, match=r"cannot read .*events.jsonl"):
        Follower(path).status()


def test_a_reader_that_was_stopped_while_it_looked_does_not_stop_the_server(path):
    with EventLog(path) as log:
        log.begin(LINES[0])
    with path.open("rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_SH)
        with EventLog(path, patience=0.1) as log, pytest.raises(StorageError, match="cannot open"):
            log.begin(begun(done=1))
    assert Follower(path).status().begun == LINES[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_told(tmp_path):
    full = tmp_path / "events.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left"):
        EventLog(full).begin(LINES[0])
