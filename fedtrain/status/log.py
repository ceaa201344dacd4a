"""``events.jsonl``: written by the one server of a run, and read by any number of others meanwhile.

A line is one write, so that a reader sees whole lines but for the last, and a kill loses none that was written. It is
not synced to the disk: what a run must not forget is in its record and its checkpoints. Where the file has grown large,
its oldest lines are left out, and the line of the run's beginning is kept.

The server holds a lock on the file (``flock``) while it runs. A reader that could have it knows that the server is
gone, also where it was killed.
"""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Self

from fedtrain.errors import StorageError
from fedtrain.status.lines import SCHEMA, Begun, Line, decode
from fedtrain.status.run import RunStatus

LARGEST = 4_000_000
"""Bytes of a file at most, but for the last line."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_MODE = 0o600
_PATIENCE = 10.0  # seconds
_PAUSE = 0.05


class EventLog:
    """Appends lines to the file of a run, of which this process is the server."""

    def __init__(self, path: Path, *, largest: int = LARGEST, patience: float = _PATIENCE) -> None:
        """Prepare; nothing is written yet.

        Args:
            path: the file.
            largest: bytes above which its oldest lines are left out.
            patience: seconds to wait for readers, each of which has the file for a moment.
        """
        self._path, self._largest, self._patience = path, largest, patience
        self._descriptor: int | None = None
        self._first = b""
        self._torn = False

    def begin(self, first: Begun) -> None:
        """Open the file, and write the first line of this start of the server.

        Raises:
            StorageError: it cannot be opened or written.
        """
        self._first = first.encode()
        try:
            self._open()
        except OSError as error:
            raise StorageError(f"cannot open {self._path}: {error.strerror or error}") from error
        self.append(first)

    def append(self, line: Line) -> None:
        """Write a line.

        Raises:
            StorageError: it cannot be written.
        """
        assert self._descriptor is not None, "an event before the run began"
        try:
            # A line that a full disk tore is ended, and passed over by readers.
            data = b"\n" * self._torn + line.encode()
            self._torn = True
            _write(self._descriptor, data)
            self._torn = False
            if os.fstat(self._descriptor).st_size > self._largest:
                self._shorten()
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, _FLAGS, _MODE)
        self._hold(self._descriptor)
        # A line that a full disk tore is ended, and passed over by readers.
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def _hold(self, descriptor: int) -> None:
        """Lock the file. A reader that was stopped while it looked must not keep a run from going on."""
        end = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def _shorten(self) -> None:
        """Replace the file by one with its first line and the newer half of the others.

        It is held before it has its name: a reader never finds a file that nobody holds while the run goes on.
        """
        data = self._path.read_bytes()
        newer = data[-(self._largest // 2) :]
        temporary = self._path.with_name(f".{self._path.name}.{token_hex(6)}.tmp")
        descriptor = os.open(temporary, _FLAGS | os.O_EXCL, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _write(descriptor, self._first + newer[newer.find(b"\n") + 1 :])
            temporary.replace(self._path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                temporary.unlink()
            raise
        before, self._descriptor = self._descriptor, descriptor
        if before is not None:
            os.close(before)


class Follower:
    """Follows the file of a run: `status` says where the run stands now."""

    def __init__(self, path: Path) -> None:
        """Begin with the first line of a file."""
        self._path = path
        self._status: RunStatus | None = None
        self._inode, self._read = -1, 0

    def status(self) -> RunStatus | None:
        """Return where the run stands; ``None`` where it has not begun.

        Raises:
            StorageError: the file cannot be read, or is of another version of fedtrain.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._read:
                    self._status, self._inode, self._read = None, found.st_ino, 0
                file.seek(self._read)
                data = file.read(4 * LARGEST)
                alive = _is_locked(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror or error}") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(line)
        if self._status is not None:
            self._status = self._status.seen(alive=alive, written=found.st_mtime)
        return self._status

    def _take(self, data: bytes) -> None:
        try:
            line = decode(data)
        except ValueError:  # torn by a full disk
            return
        if isinstance(line, Begun):
            if line.schema_ != SCHEMA:
                raise StorageError(f"{self._path} is of another version of fedtrain: its schema is {line.schema_!r}")
            self._status = RunStatus.begun_with(line, before=self._status)
        elif line is not None and self._status is not None:
            self._status = self._status.after(line)


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
