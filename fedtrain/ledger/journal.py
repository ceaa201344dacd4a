"""A file of lines that tells a torn line from a damaged one.

Before a line is appended, the whole of it is on the disk in a second file, the intent. What a crash leaves after the
last newline is therefore a part of a line that is known, and nothing else is taken for the work of a crash.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedtrain.errors import LedgerError, StorageError
from fedtrain.files import sync_folder


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the two files hold.

    Attributes:
        lines: the complete lines, newlines included; where the file begins with what was known, those after it.
        tail: what follows the last newline.
        intent: the line that was to be appended last, or a torn one if a crash came before the append began.
        known: the complete lines that were known before, one after another; empty if the file begins otherwise. It is
            the object that was given, and no copy.
    """

    lines: tuple[bytes, ...]
    tail: bytes
    intent: bytes
    known: bytes | bytearray = b""

    def line(self, number: int, *, before: int) -> bytes:
        """Return a complete line of the file.

        Args:
            number: its place, from 0.
            before: number of lines that were known before.
        """
        if number >= before:
            return self.lines[number - before]
        if number == before - 1:
            return bytes(self.known[self.known.rfind(b"\n", 0, -1) + 1 :])
        return bytes(self.known.split(b"\n")[number]) + b"\n"


class Journal:
    """The two files. Who uses them holds a lock.

    Attributes:
        content: what they held when they were read.
    """

    def __init__(self, path: Path, intent: Path, *, known: bytes | bytearray = b"") -> None:
        """Read the two files.

        Args:
            path: the file of lines.
            intent: the file of the line that is being written.
            known: complete lines that the first file is expected to begin with, and which need not be split again.

        Raises:
            StorageError: they cannot be read.
        """
        self._path = path
        self._intent = intent
        data = _read(path)
        self._size = len(data)
        if data[: len(known)] != known:  # of a file that has not grown, this slice is no copy
            known = b""
        *lines, tail = data[len(known) :].split(b"\n")
        self.content = Content(
            lines=tuple(line + b"\n" for line in lines), tail=tail, intent=_read(intent), known=known
        )

    def complete(self, rest: bytes) -> None:
        """Append what is missing of a torn line, durably.

        Raises:
            StorageError: it cannot be written. What is there is still a part of the line.
        """
        with self._reported(), _opened(self._path) as (descriptor, created):
            self._check_size(descriptor)
            _write(descriptor, rest, self._size)
            self._size += len(rest)
        if created:
            sync_folder(self._path.parent)

    def append(self, line: bytes) -> None:
        """Append a line, durably.

        Raises:
            StorageError: it cannot be written; then the file has its previous lines.
            LedgerError: another process changed the file.
        """
        with self._reported():
            with _opened(self._intent) as (descriptor, created):
                try:
                    _write(descriptor, line, 0)
                except BaseException:
                    os.ftruncate(descriptor, 0)
                    raise
            if created:
                sync_folder(self._intent.parent)
            try:
                with _opened(self._path) as (descriptor, created):
                    self._check_size(descriptor)
                    try:
                        _write(descriptor, line, self._size)
                    except BaseException:
                        os.ftruncate(descriptor, self._size)
                        raise
                if created:
                    sync_folder(self._path.parent)
            except BaseException:
                # The line was not appended, and is not to be at the next start.
                with suppress(OSError):
                    os.truncate(self._intent, 0)
                raise
        self._size += len(line)

    def _check_size(self, descriptor: int) -> None:
        if (size := os.fstat(descriptor).st_size) != self._size:
            raise LedgerError(
                f"{self._path} had {self._size} bytes and now has {size}: something changed it while it was locked; "
                "nothing was written"
            )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot append to {self._path}: {error.strerror or error}; its previous lines are kept"
            ) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bool]]:
    created = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor, created
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """Write the rest of a file from an offset, durably."""
    end = offset + len(data)
    while data:
        written = os.pwrite(descriptor, data, end - len(data))
        data = data[written:]
    if os.fstat(descriptor).st_size > end:
        os.ftruncate(descriptor, end)
    os.fsync(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
