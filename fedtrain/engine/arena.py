"""Files in shared memory that carry message content between the parent and its workers.

One side writes a file once, sends its number through a pipe, and the other side reads the parts it needs with
``pread``. A worker may map a file of large messages, which is whole by then and is never truncated. So a full file
system is an error that can be reported, never a SIGBUS. Two directories are used: one in ``/dev/shm`` where there is
one, and one on disk which takes over what does not fit into memory.

A ticket is an empty file that exists for as long as a dispatched message has not been started. Its remover
owns the message: the worker that starts it, or the parent that takes it back. ``unlink`` succeeds for exactly one of
them.
"""

import contextlib
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtrain.engine.machine import temporary_folder
from fedtrain.errors import StorageError

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

_MAX_IO = 1 << 30  # bytes in one call: the kernel moves at most 2 GiB
_MAX_VECTOR = 1024  # IOV_MAX


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a file: ``length`` bytes that begin at ``offset``."""

    offset: int
    length: int


def create_directories() -> tuple[Path, ...]:
    """Create the private directories of one run, the fastest first.

    Returns:
        A directory in shared memory, if it can be written, and one in the directory for temporary files.

    Raises:
        StorageError: there is no directory for temporary files, or it cannot be written.
    """
    directories = []
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        directories.append(_SHARED_MEMORY)
    directories.append(temporary_folder())
    created: list[Path] = []
    try:
        created.extend(Path(tempfile.mkdtemp(prefix="fedtrain-", dir=parent)) for parent in directories)
    except OSError as error:
        remove_directories(created)
        raise StorageError(f"no directory for temporary files can be made in {directories[-1]}: {error}") from error
    return tuple(created)


def remove_directories(directories: Sequence[Path]) -> None:
    """Remove directories with all that they hold. One that is gone already is fine."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def write_file(directories: Sequence[Path], name: str, parts: Sequence[bytes]) -> int:
    """Write ``parts`` one after another as the whole content of a file, in the first directory that has room.

    A file of that name is overwritten in place, which reuses its memory.

    Returns:
        The index of the directory that holds the file.

    Raises:
        StorageError: no directory has room for the file.
    """
    for index, directory in enumerate(directories):
        try:
            _overwrite(directory / name, parts)
        except OSError as error:
            (directory / name).unlink(missing_ok=True)
            if error.errno not in {errno.ENOSPC, errno.EDQUOT} or index + 1 == len(directories):
                size = sum(map(len, parts))
                raise StorageError(
                    f"a message of {size} bytes cannot be written to {directory}: {error.strerror}. "
                    "Free some space there, or let TMPDIR name a directory that has room."
                ) from error
        else:
            return index
    raise StorageError("there is no directory to write messages to")


def remove_file(path: Path) -> None:
    """Remove a file and free its memory at once, also where a worker still has it open."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)
        path.unlink()


def _overwrite(path: Path, parts: Sequence[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        total = 0
        for start in range(0, len(parts), _MAX_VECTOR):
            total += _write_all(descriptor, parts[start : start + _MAX_VECTOR])
        os.ftruncate(descriptor, total)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, parts: Sequence[bytes]) -> int:
    views = [memoryview(part) for part in parts if part]
    total = sum(map(len, views))
    while views:
        written = os.writev(descriptor, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return total


class ReadableFile:
    """An open file of which regions are read. Reads past its end are refused before any memory is reserved.

    Raises:
        StorageError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"the messages in {path} cannot be read: {error.strerror}") from error

    def read(self, region: Region) -> bytes:
        """Return the bytes of a region.

        Raises:
            StorageError: the region is not within the file.
        """
        size = self.size
        end = region.offset + region.length
        if min(region.offset, region.length) < 0 or end > size:
            raise StorageError(f"a message refers to bytes {region.offset} to {end} of a file of {size} bytes")
        if region.length <= _MAX_IO:
            data = os.pread(self._descriptor, region.length, region.offset)
        else:
            starts = range(region.offset, end, _MAX_IO)
            data = b"".join(os.pread(self._descriptor, min(_MAX_IO, end - start), start) for start in starts)
        if len(data) != region.length:
            raise StorageError(f"{len(data)} bytes of a message could be read where {region.length} were expected")
        return data

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return os.fstat(self._descriptor).st_size

    def mapped(self, region: Region) -> memoryview:
        """Return the bytes of a region as memory of one's own, of which the system copies the pages that are written.

        The file is never to be truncated.

        Raises:
            StorageError: the region is not within the file, or cannot be mapped.
        """
        start = region.offset - region.offset % mmap.ALLOCATIONGRANULARITY
        try:
            whole = mmap.mmap(
                self._descriptor, region.offset - start + region.length, access=mmap.ACCESS_COPY, offset=start
            )
        except (OSError, ValueError) as error:
            raise StorageError(f"{region.length} bytes of a message cannot be mapped: {error}") from error
        return memoryview(whole)[region.offset - start :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def issue_ticket(directory: Path, ticket: int) -> None:
    """Create the ticket of a message that is about to be dispatched.

    Raises:
        StorageError: the file cannot be made.
    """
    path = directory / f"ticket-{ticket}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageError(f"the file {path}, which a message needs, cannot be made: {error.strerror}") from error


def take_ticket(directory: Path, ticket: int) -> bool:
    """Take a ticket. True for exactly one of those who try."""
    try:
        (directory / f"ticket-{ticket}").unlink()
    except FileNotFoundError:
        return False
    return True
