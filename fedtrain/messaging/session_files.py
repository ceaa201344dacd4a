"""What lies in the folder of a client's sessions, written durably and deleted secrets first. The caller holds the lock.

All functions let an OSError of the file system pass.
"""

import json
import os
import re
import shutil
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedtrain.crypto import canonical
from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.errors import StorageError
from fedtrain.files import sync_folder, write_atomic
from fedtrain.trust import SessionSecrets

SECRET, FACTS, STATE, START = "secret", "session.json", "state", "start"
# Ids come from messages: nothing but these becomes a name of a file, and no other folder is taken for a session.
ID = re.compile(r"[0-9a-f][0-9a-f-]{0,63}")
_SECRET_BYTES = 32

# A process that answers for many clients, as in a simulation, keeps the keys of so many sessions in memory, and what
# they agreed on with other keys. On a machine of its own a client has a process for each message.
_KEPT = 256
_KEYS: OrderedDict[Path, tuple[bytes, SessionSecrets]] = OrderedDict()


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a client knows of a run, also after its sessions have ended.

    Attributes:
        roster: digest of the pinned identities.
        start: the highest start of the run's server that was accepted.
        session: id of the session that it began.
    """

    roster: str
    start: int
    session: str


def folders(parent: Path) -> list[Path]:
    """Return the folders of runs, or those of the sessions of a run. What has another name is not ours."""
    if not parent.exists():
        return []
    return [path for path in parent.iterdir() if ID.fullmatch(path.name) and path.is_dir()]


def read_start(run: Path) -> Start | None:
    """Return what is known of a run; ``None`` if nothing is.

    Raises:
        StorageError: it is damaged, or lost while there are sessions.
    """
    path = run / START
    if not path.exists() and not folders(run):
        return None
    try:
        match json.loads(path.read_bytes()):
            case {"roster": str(roster), "session": str(session), "start": int(start)}:
                return Start(roster=roster, start=start, session=session)
    except (FileNotFoundError, ValueError):
        pass
    raise StorageError(
        f"{path} is damaged or lost, so that an earlier offer of the run would look like a new one: "
        f"start another run, or delete {run} to have this one set up anew"
    )


def write_start(run: Path, known: Start) -> None:
    """Note what is known of a run.

    Raises:
        StorageError: it cannot be written; what was known is kept.
    """
    # What lies in a folder that only its owner can enter is secret, whatever its mode.
    run.mkdir(mode=0o700, exist_ok=True)
    try:
        data = canonical({"roster": known.roster, "session": known.session, "start": known.start})
        write_atomic(run / START, data)
    except BaseException:
        with suppress(OSError):
            run.rmdir()  # where it was made for this
        raise
    sync_folder(run.parent)


def make_session(folder: Path, roster: str) -> None:
    """Make a session in the folder of its run, also where a process was killed while it made one."""
    delete_session(folder)
    try:
        folder.mkdir(mode=0o700)
        write_facts(folder, roster, last=-1)
        sync_folder(folder.parent)
        read_or_create_secret(folder / SECRET, lambda: os.urandom(_SECRET_BYTES))
    except BaseException:
        with suppress(OSError):
            delete_session(folder)
        raise


def delete_session(folder: Path) -> None:
    """Delete a session, its secret first."""
    forget_keys(folder)
    if folder.exists():
        (folder / SECRET).unlink(missing_ok=True)
        sync_folder(folder)
        shutil.rmtree(folder)
        sync_folder(folder.parent)


def forget_keys(folder: Path) -> None:
    """Forget the keys of the session of a folder, or of all sessions below it, also of those that others deleted."""
    place = folder.resolve()
    for known in [known for known in _KEYS if known.is_relative_to(place)]:
        _KEYS.pop(known, None)


def delete_run(run: Path) -> None:
    """Delete the sessions of a run, and then what is known of it."""
    for session in folders(run):
        delete_session(session)
    shutil.rmtree(run)
    sync_folder(run.parent)


def last_used(run: Path) -> float:
    """Return when a session of a run was last begun or ended, or a message of it accepted: seconds since 1970."""
    # The folder itself is changed where a session is deleted, which is all that is left of one that ended.
    paths = (run, run / START, *(session / FACTS for session in folders(run)))
    return max(path.stat().st_mtime for path in paths if path.exists())


def session_secrets(folder: Path) -> SessionSecrets:
    """Return the keys of a session. That it still exists is read from the disk each time.

    Raises:
        StorageError: the file of the secret is damaged.
        KeyFileError: others can use it.
    """
    place = folder.resolve()
    known = _KEYS.pop(place, None)
    secret = read_secret(folder / SECRET)
    if len(secret) != _SECRET_BYTES:
        raise StorageError(
            f"{folder / SECRET} has {len(secret)} bytes, and {_SECRET_BYTES} are expected: it is damaged"
        )
    keys = known[1] if known is not None and known[0] == secret else SessionSecrets(secret)
    _KEYS[place] = secret, keys
    while len(_KEYS) > _KEPT:
        _KEYS.popitem(last=False)
    return keys


def write_facts(folder: Path, roster: str, last: int) -> None:
    """Write the digest of a session's roster, and the number of the last message."""
    write_atomic(folder / FACTS, canonical({"last": last, "roster": roster}))


def read_facts(folder: Path) -> tuple[str, int]:
    """Return the digest of the roster and the number of the last message; without them no message is accepted.

    Raises:
        StorageError: they are damaged.
    """
    path = folder / FACTS
    try:
        match json.loads(path.read_bytes()):
            case {"last": int(last), "roster": str(roster)}:
                return roster, last
    except ValueError:
        pass
    raise StorageError(f"{path} is damaged: the server has to set another session up")
