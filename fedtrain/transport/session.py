"""The files of a client for its sessions: FOLDER/RUN/SESSION/, for its owner's eyes only.

- ``secret``: 32 random bytes that all keys of the session come from. It is written last: without it there is no
  session.
- ``session.json``: the roster that is pinned for the session, and the number of the last message that was accepted.
- ``state``: what secure aggregation keeps between two messages.

What is written is durable and whole before a method returns, also if the process is killed at any moment or the disk
is full. A run has one session at a time: a new one deletes the earlier, secrets first, and what was sent in these can
never be opened again (as far as the file system erases what is deleted). One process at a time works on a folder.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedtrain.crypto import SessionSecrets, canonical
from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.errors import StorageError, TransportError
from fedtrain.files import sync_folder, write_atomic

_SECRET, _FACTS, _STATE = "secret", "session.json", "state"
_LOCK = "lock"  # which is no id
_SECRET_BYTES = 32
_PATIENCE = 60.0
# Ids come from messages: nothing but these becomes a name of a file.
_ID = re.compile(r"[0-9a-f][0-9a-f-]{0,63}")


class NodeSessions:
    """The sessions of one client. All parameters but the folder may come from messages that nobody vouches for."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of the client's own. It is made if need be."""
        self._folder = folder

    def begin(self, *, run: str, session: str, roster: str) -> SessionSecrets:
        """Make the keys of a session, and delete the earlier sessions of the run.

        Asked again for the session that the client is in, it returns the same keys.

        Args:
            run: id of the run: up to 64 of the digits 0 to 9 and a to f, and hyphens.
            session: id of the session, likewise.
            roster: digest of the pinned identities.

        Raises:
            TransportError: an id is not of this form, or the session is known with another roster.
            StorageError: the session cannot be written; then there is none, and the earlier ones are as they were. Or
                an earlier one cannot be deleted; its secret is, if that could be.
            KeyFileError: others can use the file of the secret.
        """
        folder = self._path(run, session)
        with self._locked():
            if (folder / _SECRET).exists():
                pinned, _ = _read_facts(folder)
                if pinned != roster:
                    raise TransportError(
                        f"session {session} of run {run} was set up with the roster {pinned}, and is offered again "
                        f"with {roster}: other identities need another session"
                    )
            else:
                _make(folder, roster)
            for other in _sessions(folder.parent):
                if other != folder:
                    _delete(other)
            return _secrets(folder)

    def secrets(self, *, run: str, session: str) -> SessionSecrets:
        """Return the keys of a session.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be read.
            KeyFileError: others can use the file of the secret.
        """
        with self._locked():
            return _secrets(self._existing(run, session))

    def roster(self, *, run: str, session: str) -> str:
        """Return the digest of the identities that are pinned for a session.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be read.
        """
        with self._locked():
            return _read_facts(self._existing(run, session))[0]

    def advance(self, *, run: str, session: str, sequence: int) -> None:
        """Note that a message was accepted. No message with this number, or a lower one, is from then on.

        Raises:
            TransportError: there is no such session, or a message with this number or a higher one was accepted.
            StorageError: it cannot be noted; then the message must not be acted upon.
        """
        with self._locked():
            folder = self._existing(run, session)
            roster, last = _read_facts(folder)
            if sequence <= last:
                raise TransportError(
                    f"message {sequence} of session {session} of run {run} is a replay: message {last} was accepted "
                    "before it came"
                )
            _write_facts(folder, roster, sequence)

    def state(self, *, run: str, session: str) -> bytes | None:
        """Return what ``save_state`` was given last; ``None`` if it never was.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be read.
        """
        with self._locked():
            path = self._existing(run, session) / _STATE
            return path.read_bytes() if path.exists() else None

    def save_state(self, *, run: str, session: str, data: bytes) -> None:
        """Keep a state until the session ends.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be written; the previous state is kept.
        """
        with self._locked():
            write_atomic(self._existing(run, session) / _STATE, data)

    def end(self, *, run: str) -> None:
        """Delete the sessions of a run, secrets first. If there are none, nothing happens.

        Raises:
            TransportError: the id is not of the form that `begin` describes.
            StorageError: something cannot be deleted.
        """
        folder = self._path(run)
        with self._locked():
            for session in _sessions(folder):
                _delete(session)
            with suppress(FileNotFoundError):
                folder.rmdir()

    def _path(self, *ids: str) -> Path:
        for name in ids:
            if not _ID.fullmatch(name):
                raise TransportError(
                    f"{name!r:.100} is no id of a run or session: up to 64 of the digits 0 to 9 and a to f, and hyphens"
                )
        return self._folder.joinpath(*ids)

    def _existing(self, run: str, session: str) -> Path:
        folder = self._path(run, session)
        if not (folder / _SECRET).exists():
            raise TransportError(
                f"this client has no keys for session {session} of run {run}: it was restarted without its files, or "
                "another session of the run was begun. The server has to set the session up again"
            )
        return folder

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self._folder / _LOCK)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
            try:
                yield
            finally:
                lock.release()
        except Timeout as error:
            raise StorageError(
                f"another process has held the sessions in {self._folder} for {_PATIENCE:g} s: wait for it to end"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot use the sessions in {self._folder}: {error}") from error


def _make(folder: Path, roster: str) -> None:
    """Make a session, also where a process was killed while it made one."""
    run = folder.parent
    _delete(folder)
    try:
        # What lies in a folder that only its owner can enter is secret, whatever its mode.
        run.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _write_facts(folder, roster, last=-1)
        sync_folder(run)
        sync_folder(run.parent)
        read_or_create_secret(folder / _SECRET, lambda: os.urandom(_SECRET_BYTES))
    except BaseException:
        with suppress(OSError):
            _delete(folder)
            run.rmdir()
        raise


def _delete(folder: Path) -> None:
    if folder.exists():
        (folder / _SECRET).unlink(missing_ok=True)
        sync_folder(folder)
        shutil.rmtree(folder)
        sync_folder(folder.parent)


def _sessions(run: Path) -> list[Path]:
    return list(run.iterdir()) if run.exists() else []


def _secrets(folder: Path) -> SessionSecrets:
    secret = read_secret(folder / _SECRET)
    if len(secret) != _SECRET_BYTES:
        raise StorageError(
            f"{folder / _SECRET} has {len(secret)} bytes, and {_SECRET_BYTES} are expected: it is damaged"
        )
    return SessionSecrets(secret)


def _write_facts(folder: Path, roster: str, last: int) -> None:
    write_atomic(folder / _FACTS, canonical({"last": last, "roster": roster}))


def _read_facts(folder: Path) -> tuple[str, int]:
    """Return the digest of the roster and the number of the last message; without them no message is accepted."""
    path = folder / _FACTS
    try:
        match json.loads(path.read_bytes()):
            case {"last": int(last), "roster": str(roster)}:
                return roster, last
    except ValueError:
        pass
    raise StorageError(f"{path} is damaged: the server has to set another session up")
