"""The files of a client for its sessions: FOLDER/RUN/, readable by their owner alone.

- ``start``: what is known of the run: its roster, the highest start of its server that was accepted, and the session
  that this start began. It outlives the sessions, so that neither an offer that is replayed nor one with other
  identities gets the run again.
- ``SESSION/secret``: 32 random bytes that all keys of the session come from. It is written last: without it there is
  no session.
- ``SESSION/session.json``: the roster, and the number of the last message that was accepted.
- ``SESSION/state``: what secure aggregation keeps between two messages.

What is written is durable and whole before a method returns, also if the process is killed at any moment or the disk
is full. A run has one session at a time: a new one deletes the earlier, secrets first, and what was sent in these can
never be opened again (as far as the file system erases what is deleted). A run that was not used for 30 days is
deleted, with all that is known of it, when a session of another begins: a client that was lost in the middle of one
does not keep its keys for ever. One process at a time works on a folder. Files of other names are left alone.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from fedtrain.errors import StorageError, TransportError
from fedtrain.files import write_atomic
from fedtrain.messaging.session_files import (
    ID,
    SECRET,
    STATE,
    Start,
    delete_run,
    delete_session,
    folders,
    forget_keys,
    last_used,
    make_session,
    read_facts,
    read_start,
    session_secrets,
    write_facts,
    write_start,
)
from fedtrain.trust import SessionSecrets

_T = TypeVar("_T")
_LOCK = "lock"  # which is no id
_TIMEOUT = 60.0
_KEPT = 30 * 24 * 3600.0


class NodeSessions:
    """The sessions of one client. All parameters but the folder may come from messages that nobody vouches for."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of the client's own. It is made if need be."""
        self._folder = folder

    def begin(self, *, run: str, session: str, roster: str, start: int) -> SessionSecrets:
        """Make the keys of a session, and delete the earlier sessions of the run, and runs that are out of use.

        Asked again for the session that the client is in, it returns the same keys.

        Args:
            run: id of the run: up to 64 of the digits 0 to 9 and a to f, and hyphens.
            session: id of the session, likewise.
            roster: digest of the pinned identities.
            start: which start of the run's server it is, as the server signed it.

        Raises:
            TransportError: an id is not of this form, the run is known with another roster or a higher start, or with
                another session of this start. Nothing has changed then.
            StorageError: the session cannot be written, or what is known of the run cannot be read; then there is
                none, and the earlier ones are as they were. Or an earlier one, or a run that is out of use, cannot be
                deleted; its secret is, if that could be.
            KeyFileError: others can use the file of the secret.
        """
        folder = self._path(run, session)
        offered = Start(roster=roster, start=start, session=session)
        with self._locked():
            known = read_start(folder.parent)
            if known is not None:
                _check(run, known, offered)
            self._delete_unused(but=folder.parent)
            # Noted first: a process that is killed here leaves a run that refuses what is older, and no session.
            write_start(folder.parent, offered)
            if (folder / SECRET).exists():
                read_facts(folder)  # no keys are announced for a session that would accept nothing
            else:
                make_session(folder, roster)
            forget_keys(folder.parent)
            for other in folders(folder.parent):
                if other != folder:
                    delete_session(other)
            return session_secrets(folder)

    def secrets(self, *, run: str, session: str) -> SessionSecrets:
        """Return the keys of a session.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be read.
            KeyFileError: others can use the file of the secret.
        """
        with self._locked():
            return session_secrets(self._existing(run, session))

    def roster(self, *, run: str, session: str) -> str:
        """Return the digest of the identities that are pinned for a session.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be read.
        """
        with self._locked():
            return read_facts(self._existing(run, session))[0]

    def advance(self, *, run: str, session: str, sequence: int) -> None:
        """Note that a message was accepted. No message with this number, or a lower one, is from then on.

        Raises:
            TransportError: there is no such session, or a message with this number or a higher one was accepted.
            StorageError: it cannot be noted; then the message must not be acted upon.
        """
        with self._locked():
            folder = self._existing(run, session)
            roster, last = read_facts(folder)
            if sequence <= last:
                raise TransportError(
                    f"message {sequence} of session {session} of run {run} is a replay: message {last} was accepted "
                    "before it came"
                )
            write_facts(folder, roster, sequence)

    def state(self, *, run: str, session: str) -> bytes | None:
        """Return the state of a session as it is now; ``None`` if it never had one. Another message may change it.

        Raises:
            TransportError: there is no such session.
            StorageError: it cannot be read.
        """
        with self._locked():
            return _read_state(self._existing(run, session))

    def update(self, *, run: str, session: str, change: Callable[[bytes | None], tuple[bytes, _T]]) -> _T:
        """Replace the state of a session, and return what was made along with the new one, once that is on the disk.

        Of two updates at the same time the second sees what the first wrote. An exception in ``change`` passes, and
        leaves the state as it was.

        Args:
            run: id of the run.
            session: id of the session.
            change: given the state (``None`` if there never was one), returns the new one and a result. All messages
                of this client wait for it, so it is to be short. It must not use the sessions of this folder itself.

        Raises:
            TransportError: there is no such session.
            StorageError: the state cannot be read or written; the previous one is kept. So is an OSError in
                ``change``.
        """
        with self._locked():
            folder = self._existing(run, session)
            data, result = change(_read_state(folder))
            write_atomic(folder / STATE, data)
            return result

    def end(self, *, run: str) -> None:
        """Delete the sessions of a run, secrets first, and keep what is known of it. Without any, nothing happens.

        Raises:
            TransportError: the id is not of the form that `begin` describes.
            StorageError: something cannot be deleted.
        """
        folder = self._path(run)
        with self._locked():
            forget_keys(folder)
            for session in folders(folder):
                delete_session(session)

    def _delete_unused(self, *, but: Path) -> None:
        oldest = time.time() - _KEPT
        for run in folders(self._folder):
            if run != but and last_used(run) < oldest:
                delete_run(run)

    def _path(self, *ids: str) -> Path:
        for name in ids:
            if not ID.fullmatch(name):
                raise TransportError(
                    f"{name!r:.100} is no id of a run or session: up to 64 of the digits 0 to 9 and a to f, and hyphens"
                )
        return self._folder.joinpath(*ids)

    def _existing(self, run: str, session: str) -> Path:
        folder = self._path(run, session)
        if not (folder / SECRET).exists():
            forget_keys(folder)
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
            lock.acquire(timeout=_TIMEOUT)
            try:
                yield
            finally:
                lock.release()
        except Timeout as error:
            raise StorageError(
                f"another process has held the sessions in {self._folder} for {_TIMEOUT:g} s: wait for it to end"
            ) from error
        except OSError as error:
            raise StorageError(f"cannot use the sessions in {self._folder}: {error}") from error


def _check(run: str, known: Start, offered: Start) -> None:
    if offered.roster != known.roster:
        raise TransportError(
            f"run {run} was set up with the roster {known.roster}, and is offered again with {offered.roster}: "
            "other identities need another run"
        )
    if offered.start < known.start:
        raise TransportError(
            f"start {offered.start} of the server of run {run} is a replay: start {known.start} was accepted before "
            "it came"
        )
    if offered.start == known.start and offered.session != known.session:
        raise TransportError(
            f"start {offered.start} of the server of run {run} began session {known.session}, and is offered again "
            f"with session {offered.session}: a server that starts again has to count its starts up"
        )


def _read_state(folder: Path) -> bytes | None:
    path = folder / STATE
    return path.read_bytes() if path.exists() else None
