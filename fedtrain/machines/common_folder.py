"""Whether processes that may be on several machines work in one folder: the ledgers of simulated clients lie in it.

A simulated client has no machine. On a cluster each of its messages is answered wherever a process is free, and its
ledger is one only where all machines see the same files. The server leaves a file with a name and a content that nobody
could guess, and holds a lock on it for as long as the run takes. Whoever finds the file, and finds it held, sees the
server's folder and its locks. A copy of the folder has no such file, or has it and nobody holds it there. Where a file
system keeps locks for each machine by itself nobody holds it either, and two machines could write one ledger at once.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from socket import gethostname

from fedtrain.errors import StorageError

_PREFIX = ".run-"
_NAME = re.compile(r"[0-9a-f]{32}")
_BYTES = 16
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A file that a server left in a folder.

    Attributes:
        name: tells the file among those of other runs.
        token: what is in it.
    """

    name: str
    token: str


@contextmanager
def marked(folder: Path) -> Iterator[Marker]:
    """Leave a file in a folder, hold it, and take it away at the end. The folder is made where there is none.

    Raises:
        StorageError: the folder cannot be written, or its file system has no locks.
    """
    marker = Marker(name=token_hex(_BYTES), token=token_hex(_BYTES))
    path, made = folder / f"{_PREFIX}{marker.name}", not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write in the folder of the clients {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, marker.token.encode())
            os.fsync(descriptor)
        except OSError as error:
            raise StorageError(
                f"cannot write and lock a file in the folder of the clients {folder}: {error.strerror or error}"
            ) from error
        yield marker
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def token_of(folder: Path, name: str) -> str:
    """Return what is in the file that a server left in a folder and holds.

    Args:
        folder: where it is looked for.
        name: the marker's, as the server says it.

    Raises:
        StorageError: there is no such file, or nobody holds it: the folder is not the one that the server works in.
    """
    here = f"{folder.absolute()} on {gethostname()}"
    if not _NAME.fullmatch(name):
        raise StorageError(f"the server names no file of its own in {here}")
    try:
        descriptor = os.open(folder / f"{_PREFIX}{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"{here} is not the server's folder ({error.strerror or error})") from error
    try:
        # Not for itself alone: two that look at once must not take each other for the server.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return os.read(descriptor, 4 * _BYTES).decode(errors="replace")
        raise StorageError(f"{here} has no locks ({error.strerror or error})") from error
    finally:
        os.close(descriptor)
    raise StorageError(f"{here} is a copy of the server's folder, or its locks hold for one machine alone")
