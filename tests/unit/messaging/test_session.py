import multiprocessing
import os
import resource
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from filelock import FileLock

from fedtrain.errors import KeyFileError, StorageError, TransportError
from fedtrain.messaging import NodeSessions, session, session_files

ROOT = Path(__file__).parents[3]
RUN, SESSION, ROSTER = "0123abcd", "44cd0e", "a" * 64
IDS = {"run": RUN, "session": SESSION}
NEXT = {"run": RUN, "session": "00", "roster": ROSTER, "start": 2}
DAY = 24 * 3600.0
ALL = [
    lambda sessions, ids: sessions.begin(**ids, roster=ROSTER, start=1),
    lambda sessions, ids: sessions.secrets(**ids),
    lambda sessions, ids: sessions.roster(**ids),
    lambda sessions, ids: sessions.advance(**ids, sequence=1),
    lambda sessions, ids: sessions.state(**ids),
    lambda sessions, ids: sessions.update(**ids, change=lambda _: (b"state", None)),
]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "lock")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.fixture
def sessions(tmp_path):
    return NodeSessions(tmp_path / "sessions")


@pytest.fixture
def begun(sessions):
    sessions.begin(**IDS, roster=ROSTER, start=1)
    return sessions


@contextmanager
def full_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_session_keeps_its_keys_across_restarts(sessions, tmp_path):
    made = sessions.begin(**IDS, roster=ROSTER, start=1)
    again = NodeSessions(tmp_path / "sessions")
    for secrets in (again.begin(**IDS, roster=ROSTER, start=1), again.secrets(**IDS)):
        assert secrets.sealing.public == made.sealing.public
        assert secrets.masking.public == made.masking.public
    assert again.roster(**IDS) == ROSTER


def test_each_session_has_its_own_keys(sessions):
    one = sessions.begin(**IDS, roster=ROSTER, start=1)
    assert sessions.begin(run="ab", session=SESSION, roster=ROSTER, start=1).sealing.public != one.sealing.public
    assert sessions.begin(**NEXT).sealing.public != one.sealing.public
    assert sessions.begin(**IDS, roster=ROSTER, start=3).sealing.public != one.sealing.public


def test_a_session_is_for_its_owner_alone(tmp_path):
    previous = os.umask(0)
    try:
        sessions = NodeSessions(tmp_path / "sessions")
        sessions.begin(**IDS, roster=ROSTER, start=1)
        sessions.update(**IDS, change=lambda _: (b"secret state", None))
    finally:
        os.umask(previous)
    folder = tmp_path / "sessions" / RUN
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((folder / SESSION).stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / SESSION / "secret").stat().st_mode) == 0o600


def test_a_new_session_deletes_the_earlier_ones_of_its_run_alone(begun, tmp_path):
    begun.begin(run="ab", session=SESSION, roster=ROSTER, start=1)
    begun.update(**IDS, change=lambda _: (b"state", None))
    begun.begin(**NEXT)
    assert files(tmp_path / "sessions") == [
        RUN,
        f"{RUN}/00",
        f"{RUN}/00/secret",
        f"{RUN}/00/session.json",
        f"{RUN}/start",
        "ab",
        f"ab/{SESSION}",
        f"ab/{SESSION}/secret",
        f"ab/{SESSION}/session.json",
        "ab/start",
    ]
    for use in ALL[1:]:
        with pytest.raises(TransportError, match=f"no keys for session {SESSION} .* has to set the session up again"):
            use(begun, IDS)


def refused(sessions, folder, offer, why):
    before = contents(folder)
    with pytest.raises(TransportError, match=why):
        sessions.begin(**offer)
    assert contents(folder) == before


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("offer", [{**IDS, "start": 1}, {**IDS, "start": 2}, {"run": RUN, "session": "00", "start": 2}])
def test_a_run_is_not_offered_again_with_other_identities(begun, tmp_path, offer, ended):
    if ended:
        begun.end(run=RUN)
    refused(
        NodeSessions(tmp_path / "sessions"),
        tmp_path,
        offer | {"roster": "b" * 64},
        f"run {RUN} was set up with the roster {ROSTER}, and is offered again with {'b' * 64}: .* need another run",
    )


@pytest.mark.parametrize("ended", [False, True])
def test_an_offer_of_an_earlier_start_is_a_replay(begun, tmp_path, ended):
    begun.begin(run="ab", session=SESSION, roster=ROSTER, start=1)
    current = begun.begin(**NEXT | {"start": 3})
    if ended:
        begun.end(run=RUN)
    sessions = NodeSessions(tmp_path / "sessions")
    for session_id, start in ((SESSION, 1), (SESSION, 2), ("00", 2), ("01", -3)):
        refused(
            sessions,
            tmp_path,
            NEXT | {"session": session_id, "start": start},
            f"start {start} of the server of run {RUN} is a replay: start 3 was accepted",
        )
    again = sessions.begin(**NEXT | {"start": 3})
    assert (again.sealing.public == current.sealing.public) is not ended
    assert sessions.begin(run="ab", session="00", roster=ROSTER, start=2)


def test_a_start_begins_one_session(begun, tmp_path):
    refused(begun, tmp_path, NEXT | {"start": 1}, f"start 1 .* began session {SESSION}, and is offered again .* 00:")
    begun.end(run=RUN)
    refused(begun, tmp_path, NEXT | {"start": 1}, f"start 1 .* began session {SESSION}, and is offered again .* 00:")


def test_a_session_goes_on_in_a_later_start(begun):
    before = begun.secrets(**IDS).sealing.public
    assert begun.begin(**IDS, roster=ROSTER, start=2).sealing.public == before
    with pytest.raises(TransportError, match=r"start 1 .* is a replay: start 2"):
        begun.begin(**IDS, roster=ROSTER, start=1)


def test_no_message_is_accepted_twice(begun, tmp_path):
    begun.advance(**IDS, sequence=0)
    begun.advance(**IDS, sequence=7)
    for sessions in (begun, NodeSessions(tmp_path / "sessions")):
        for sequence in (7, 6, 0, -1):
            with pytest.raises(TransportError, match=f"message {sequence} .* is a replay: message 7 was accepted"):
                sessions.advance(**IDS, sequence=sequence)
    begun.begin(**IDS, roster=ROSTER, start=1)
    with pytest.raises(TransportError, match="replay"):
        begun.advance(**IDS, sequence=7)
    begun.advance(**IDS, sequence=8)
    assert begun.roster(**IDS) == ROSTER


def test_a_state_is_kept_until_it_is_replaced(begun, tmp_path):
    assert begun.state(**IDS) is None
    for data in (b"first", b"", bytes(100_000)):
        begun.update(**IDS, change=lambda _, data=data: (data, None))
        assert NodeSessions(tmp_path / "sessions").state(**IDS) == data
    begun.begin(**IDS, roster=ROSTER, start=1)
    assert begun.state(**IDS) == bytes(100_000)


def test_an_update_is_given_the_state_and_returns_what_was_made_of_it(begun):
    assert begun.update(**IDS, change=lambda state: (b"one", state)) is None
    assert begun.update(**IDS, change=lambda state: (state + b", two", len(state))) == 3
    assert begun.state(**IDS) == b"one, two"


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ValueError("no"), ValueError), (TransportError("no"), TransportError), (OSError("no"), StorageError)],
)
def test_a_change_that_fails_leaves_the_state_as_it_was(begun, tmp_path, error, raised):
    def fails(_):
        raise error

    begun.update(**IDS, change=lambda _: (b"state", None))
    before = contents(tmp_path)
    with pytest.raises(raised, match="no"):
        begun.update(**IDS, change=fails)
    assert contents(tmp_path) == before
    begun.advance(**IDS, sequence=1)


def test_the_result_of_an_update_is_lost_if_its_state_is_not_written(begun):
    made = []

    def change(_):
        made.append("result")
        return b"a state that is too long", made[0]

    with full_disk(), pytest.raises(StorageError, match="File too large"):
        begun.update(**IDS, change=change)
    assert made == ["result"]
    assert begun.state(**IDS) is None


def count(folder, times):
    """Return the counts that this process was given."""
    sessions = NodeSessions(folder)

    def change(state):
        number = int(state or b"0")
        time.sleep(0.001)
        return b"%d" % (number + 1), number

    return [sessions.update(**IDS, change=change) for _ in range(times)]


def test_of_several_updates_at_the_same_time_each_sees_what_the_others_wrote(begun, tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.starmap(count, [(tmp_path / "sessions", 20)] * 3)
    assert sorted(chain(*results)) == list(range(60))
    with ThreadPoolExecutor(3) as executor:
        results = executor.map(count, [tmp_path / "sessions"] * 3, [20] * 3)
    assert sorted(chain(*results)) == list(range(60, 120))
    assert begun.state(**IDS) == b"120"


def test_what_has_ended_is_gone(begun, tmp_path):
    begun.update(**IDS, change=lambda _: (b"state", None))
    begun.begin(run="ab", session=SESSION, roster=ROSTER, start=1)
    begun.end(run=RUN)
    assert [name for name in files(tmp_path / "sessions") if name.startswith(RUN)] == [RUN, f"{RUN}/start"]
    begun.end(run=RUN)
    begun.end(run="ff")
    assert not (tmp_path / "sessions" / "ff").exists()
    with pytest.raises(TransportError, match="no keys"):
        begun.secrets(**IDS)
    assert begun.roster(run="ab", session=SESSION) == ROSTER


def test_secrets_are_deleted_before_all_else(begun, tmp_path, monkeypatch):
    def fails(path):
        raise PermissionError(13, "Permission denied", str(path))

    begun.update(**IDS, change=lambda _: (b"state", None))
    monkeypatch.setattr(session_files.shutil, "rmtree", fails)
    for delete in (lambda: begun.end(run=RUN), lambda: begun.begin(**NEXT)):
        with pytest.raises(StorageError, match="Permission denied"):
            delete()
        assert not (tmp_path / "sessions" / RUN / SESSION / "secret").exists()
    monkeypatch.undo()
    begun.begin(**NEXT)
    assert sorted(path.name for path in (tmp_path / "sessions" / RUN).iterdir()) == ["00", "start"]


@pytest.mark.parametrize(
    "delete", [lambda sessions: sessions.end(run=RUN), lambda sessions: sessions.begin(**NEXT)], ids=["end", "begin"]
)
def test_a_process_keeps_keys_until_their_session_is_deleted(begun, tmp_path, delete):
    folder = tmp_path / "sessions" / RUN / SESSION
    keys = begun.secrets(**IDS)
    assert begun.secrets(**IDS) is keys
    assert folder in session_files._KEYS
    delete(begun)
    assert folder not in session_files._KEYS


def refused_secrets(sessions):
    with pytest.raises(TransportError, match="no keys"):
        sessions.secrets(**IDS)


@pytest.mark.parametrize(
    "learn",
    [
        lambda sessions: sessions.end(run=RUN),
        lambda sessions: sessions.begin(**NEXT),
        refused_secrets,
    ],
    ids=["end", "begin", "secrets"],
)
def test_keys_of_a_session_that_another_process_ended_are_forgotten(begun, tmp_path, learn):
    folder = tmp_path / "sessions" / RUN / SESSION
    begun.secrets(**IDS)
    shutil.rmtree(folder)  # as the other process does
    assert folder in session_files._KEYS
    learn(begun)
    assert folder not in session_files._KEYS


def test_a_folder_has_one_entry_in_memory_by_whatever_path(begun, tmp_path):
    (tmp_path / "other").symlink_to(tmp_path / "sessions")
    keys = begun.secrets(**IDS)
    assert NodeSessions(tmp_path / "other").secrets(**IDS) is keys
    NodeSessions(tmp_path / "other").end(run=RUN)
    assert tmp_path / "sessions" / RUN / SESSION not in session_files._KEYS


def test_keys_in_memory_are_those_of_the_secret_on_the_disk(begun, tmp_path):
    secret = tmp_path / "sessions" / RUN / SESSION / "secret"
    keys, whole = begun.secrets(**IDS), secret.read_bytes()
    secret.write_bytes(bytes(32))
    assert begun.secrets(**IDS).masking.public != keys.masking.public
    secret.chmod(0o644)
    with pytest.raises(KeyFileError):
        begun.secrets(**IDS)
    secret.chmod(0o600)
    secret.write_bytes(whole)
    assert begun.secrets(**IDS).masking.public == keys.masking.public
    secret.unlink()  # by another process
    with pytest.raises(TransportError, match="no keys"):
        begun.secrets(**IDS)


def test_a_process_keeps_the_keys_of_the_sessions_that_were_used_last(sessions, monkeypatch):
    monkeypatch.setattr(session_files, "_KEYS", type(session_files._KEYS)())
    monkeypatch.setattr(session_files, "_KEPT", 2)

    def kept():
        return [folder.parent.name for folder in session_files._KEYS]

    def begin(run):
        return sessions.begin(run=run, session=SESSION, roster=ROSTER, start=1)

    first, second = begin("0a"), begin("0b")
    assert sessions.secrets(run="0a", session=SESSION) is first
    begin("0c")
    assert kept() == ["0a", "0c"]
    assert sessions.secrets(run="0b", session=SESSION).masking.public == second.masking.public
    assert kept() == ["0c", "0b"]


BAD = ["", ".", "..", "../x", "a/b", "/etc", "a\0", "A", "g", "lock", "-a", "a" * 65, "a\n", "\u0661", "a b", ".a"]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("use", ALL)
def test_what_is_no_id_becomes_no_name_of_a_file(sessions, tmp_path, use, name):
    for ids in ({"run": name, "session": SESSION}, {"run": RUN, "session": name}):
        with pytest.raises(TransportError, match="is no id of a run or session"):
            use(sessions, ids)
    with pytest.raises(TransportError, match="is no id of a run or session"):
        sessions.end(run=name)
    assert files(tmp_path / "sessions") in ([], ["sessions"])


def test_long_ids_and_uuids_are_ids(sessions):
    for name in ("0", "f" * 64, "0e8d4f0a-5a3c-4f3e-9d25-0b8f6f0f5d11"):
        sessions.begin(run=name, session=name, roster=ROSTER, start=1)
        assert sessions.roster(run=name, session=name) == ROSTER


def test_a_full_disk_changes_nothing(begun, tmp_path):
    begun.update(**IDS, change=lambda _: (b"state", None))
    before, names = contents(tmp_path), files(tmp_path)
    with full_disk():
        for use in (
            lambda: begun.begin(**NEXT),
            lambda: begun.begin(run="ab", session="00", roster=ROSTER, start=1),
            lambda: begun.advance(**IDS, sequence=3),
            lambda: begun.update(**IDS, change=lambda _: (b"a longer state", None)),
        ):
            with pytest.raises(StorageError, match="File too large"):
                use()
            assert contents(tmp_path) == before
            assert files(tmp_path) == names
    begun.advance(**IDS, sequence=3)


def test_what_a_killed_process_left_is_no_session(sessions, tmp_path):
    folder = tmp_path / "sessions" / RUN / SESSION
    folder.mkdir(parents=True)
    (folder.parent / "start").write_text(f'{{"roster":"{ROSTER}","session":"{SESSION}","start":1}}')
    (folder.parent / ".start.0123.tmp").write_bytes(b"torn")
    (folder / "session.json").write_text('{"last":5,"roster":"other"}')
    (folder / "state").write_bytes(b"of keys that are gone")
    (folder / ".secret.0123.tmp").write_bytes(b"torn")
    for use in ALL[1:]:
        with pytest.raises(TransportError, match="no keys"):
            use(sessions, IDS)
    sessions.begin(**IDS, roster=ROSTER, start=1)
    assert sessions.state(**IDS) is None
    sessions.advance(**IDS, sequence=1)
    assert sorted(path.name for path in folder.iterdir()) == ["secret", "session.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "null", "{}", '{"last":1}', '{"last":"1","roster":"a"}', '{"last":1,"roster":1}']
)
def test_a_damaged_session_accepts_nothing(begun, tmp_path, text):
    (tmp_path / "sessions" / RUN / SESSION / "session.json").write_text(text)
    for use in (ALL[0], ALL[2], ALL[3]):
        with pytest.raises(StorageError, match=r"session.json is damaged"):
            use(begun, IDS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "{}",
        '{"start":1}',
        '{"roster":"a","session":"b"}',
        '{"roster":1,"session":"b","start":1}',
        '{"roster":"a","session":1,"start":1}',
        '{"roster":"a","session":"b","start":"1"}',
        None,
    ],
)
def test_a_run_whose_start_is_damaged_or_lost_begins_nothing(begun, tmp_path, text):
    path = tmp_path / "sessions" / RUN / "start"
    path.unlink()
    if text is not None:
        path.write_text(text)
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=r"start is damaged or lost, .*: start another run, or delete .* anew"):
        begun.begin(**NEXT)
    assert contents(tmp_path) == before
    begun.advance(**IDS, sequence=1)


def test_a_session_that_cannot_be_made_leaves_the_earlier_one(begun, tmp_path, monkeypatch):
    def fails(_):
        raise OSError("no randomness")

    before = contents(tmp_path / "sessions" / RUN / SESSION)
    monkeypatch.setattr(session_files.os, "urandom", fails)
    with pytest.raises(StorageError, match="no randomness"):
        begun.begin(**NEXT)
    monkeypatch.undo()
    assert files(tmp_path / "sessions" / RUN) == [SESSION, f"{SESSION}/secret", f"{SESSION}/session.json", "start"]
    assert contents(tmp_path / "sessions" / RUN / SESSION) == before
    begun.advance(**IDS, sequence=1)
    begun.begin(**NEXT)
    assert begun.roster(run=RUN, session="00") == ROSTER


def test_files_of_others_are_left_alone(sessions, tmp_path):
    strange = [
        ".DS_Store",
        "start~",
        "ab",
        f"{RUN}/.DS_Store",
        f"{RUN}/start~",
        f"{RUN}/cd",
        f"{RUN}/.x/file",
        "Ab/file",
    ]
    for name in strange:
        path = tmp_path / "sessions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not ours")
    sessions.begin(**IDS, roster=ROSTER, start=1)
    sessions.begin(**NEXT)
    sessions.end(run=RUN)
    sessions.begin(run="ff", session="00", roster=ROSTER, start=1)
    assert {name: (tmp_path / "sessions" / name).read_bytes() for name in strange} == dict.fromkeys(
        strange, b"not ours"
    )


def grow_older(folder, days):
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - days * DAY,) * 2)


def test_a_run_that_was_not_used_for_thirty_days_is_deleted(sessions, tmp_path):
    folder = tmp_path / "sessions"
    for run in ("a0", "a1", "a2", "a3", "a4", "a5"):
        sessions.begin(run=run, session=SESSION, roster=ROSTER, start=1)
        sessions.update(run=run, session=SESSION, change=lambda _: (b"state", None))
    (folder / "a6").mkdir()
    for run, days in {"a0": 30.1, "a1": 29.9, "a2": 31, "a3": 31, "a4": 31, "a5": 31, "a6": 31}.items():
        grow_older(folder / run, days)
    sessions.advance(run="a2", session=SESSION, sequence=0)
    sessions.end(run="a3")
    with pytest.raises(TransportError, match="other identities"):
        sessions.begin(run="a4", session=SESSION, roster="b", start=1)
    assert (folder / "a0").exists()
    sessions.begin(run="a4", session=SESSION, roster=ROSTER, start=1)
    assert sorted(path.name for path in folder.iterdir()) == ["a1", "a2", "a3", "a4", "lock"]
    assert sessions.state(run="a4", session=SESSION) == b"state"
    sessions.begin(run="ff", session=SESSION, roster=ROSTER, start=1)
    assert (folder / "a4").exists()


def test_the_secrets_of_an_unused_run_are_deleted_before_all_else(begun, tmp_path, monkeypatch):
    def fails(path):
        raise PermissionError(13, "Permission denied", str(path))

    grow_older(tmp_path / "sessions" / RUN, 31)
    monkeypatch.setattr(session_files.shutil, "rmtree", fails)
    with pytest.raises(StorageError, match="Permission denied"):
        begun.begin(run="ab", session=SESSION, roster=ROSTER, start=1)
    assert files(tmp_path / "sessions") == [RUN, f"{RUN}/{SESSION}", f"{RUN}/{SESSION}/session.json", f"{RUN}/start"]


def test_a_session_without_its_facts_accepts_nothing(begun, tmp_path):
    (tmp_path / "sessions" / RUN / SESSION / "session.json").unlink()
    with pytest.raises(StorageError, match=r"cannot use the sessions .* No such file"):
        begun.advance(**IDS, sequence=1)


def test_a_secret_that_others_can_read_or_that_is_damaged_is_refused(begun, tmp_path):
    path = tmp_path / "sessions" / RUN / SESSION / "secret"
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="can be used by others"):
        begun.secrets(**IDS)
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    with pytest.raises(StorageError, match="has 31 bytes, and 32 are expected: it is damaged"):
        begun.secrets(**IDS)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for use in ALL:
        with pytest.raises(StorageError, match=f"cannot use the sessions in {tmp_path / 'file' / 'sessions'}"):
            use(NodeSessions(tmp_path / "file" / "sessions"), IDS)


def test_one_process_at_a_time_works_on_a_folder(begun, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "_TIMEOUT", 0.1)
    with (
        FileLock(tmp_path / "sessions" / "lock"),
        pytest.raises(StorageError, match=r"has held the sessions .* 0\.1 s"),
    ):
        begun.advance(**IDS, sequence=1)
    begun.advance(**IDS, sequence=1)


def accepted(folder, numbers):
    """Return which of these messages this process was allowed to accept."""
    sessions, mine = NodeSessions(folder), []
    public = sessions.begin(**IDS, roster=ROSTER, start=1).sealing.public.digest
    for number in numbers:
        try:
            sessions.advance(**IDS, sequence=number)
            mine.append(number)
        except TransportError:
            pass
    return public, mine


def test_of_several_processes_one_accepts_a_message(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.starmap(accepted, [(tmp_path / "sessions", range(20))] * 3)
    publics, numbers = zip(*results, strict=True)
    assert len(set(publics)) == 1
    together = sorted(chain(*numbers))
    assert together == sorted(set(together))
    assert 19 in together


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03])
def test_a_killed_process_leaves_a_session_whole(tmp_path, delay):
    program = """
        import sys
        from pathlib import Path
        from fedtrain.messaging import NodeSessions
        sessions = NodeSessions(Path(sys.argv[1]))
        for number in range(100_000):
            ids = {"run": "ab", "session": f"{number // 7:x}"}
            sessions.begin(**ids, roster="a", start=1 + number // 7)
            sessions.advance(**ids, sequence=number)
            sessions.update(**ids, change=lambda _: (b"%d" % number * 10_000, None))
            print(number, flush=True)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    printed = [process.stdout.readline() for _ in range(10)]
    time.sleep(delay)
    process.kill()
    printed += process.communicate()[0].splitlines()
    last = int(printed[-1])
    sessions = NodeSessions(tmp_path)
    newest = max((path.parent.name for path in (tmp_path / "ab").glob("*/secret")), key=lambda name: int(name, 16))
    number = int(newest, 16)
    assert number in {last // 7, (last + 1) // 7}
    ids = {"run": "ab", "session": newest}
    public = sessions.secrets(**ids).sealing.public
    # The start after it may have been noted, without a session yet.
    assert sessions.begin(**ids, roster="a", start=3 + number).sealing.public == public
    assert [path.parent.name for path in (tmp_path / "ab").glob("*/secret")] == [newest]
    state = sessions.state(**ids)
    assert state is None or state == state[: len(state) // 10_000] * 10_000
    if number == last // 7:
        assert state is not None
        with pytest.raises(TransportError, match="replay"):
            sessions.advance(**ids, sequence=last)
    sessions.advance(**ids, sequence=10**6)
