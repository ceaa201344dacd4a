"""Writes that survive a full disk, Ctrl-C and a power failure.

A file that is written whole is replaced atomically: a reader sees the previous content or the new one. A file of
lines only grows; a line that a crash tore is no line, and the next append removes it.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from fedtrain.errors import StorageError, UsageError


def current_folder() -> Path:
    """Return the current folder.

    Raises:
        UsageError: it does not exist any more.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be found ({error.strerror}): it was deleted, or moved away; change to another"
        ) from error


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whole, durably: when this returns, the new content survives a power failure.

    Args:
        path: the file.
        data: its content.
        durable: whether it has to survive that. What is written again in a moment need not.

    Raises:
        StorageError: it cannot be written. The previous file, if any, is kept, and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            (_write_durably if durable else _write)(descriptor, data)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; the previous file, if any, is kept"
            ) from error
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can.

    Raises:
        StorageError: the folder cannot be synchronized. Its files are in place, but may not survive a power failure.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such operation
            raise StorageError(
                f"cannot synchronize the folder {folder}: {error.strerror or error}; "
                "the new file is in place, but may not survive a power failure"
            ) from error


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record as one line of JSON, durably. Creates the file; removes a line that a crash tore.

    Raises:
        StorageError: the record is not JSON (numbers must be finite), or the file cannot be written; then it holds
            its previous lines.
    """
    append_bytes(path, _encode(path, record))


def append_bytes(path: Path, lines: bytes, *, at: int | None = None) -> None:
    """Append whole lines, durably. Creates the file; removes a line that a crash tore.

    Args:
        path: the file.
        lines: the lines, each with its end.
        at: where they go, in bytes from the start: what follows is cut off. By default after the last whole line.

    Raises:
        StorageError: the file cannot be written, or ends before ``at``; then it holds its previous lines.
    """
    try:
        created = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            end = _end_of_lines(descriptor) if at is None else at
            if end > (size := os.fstat(descriptor).st_size):
                raise StorageError(f"{path} has {size} bytes, and {end} were written to it: it was cut off")
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            try:
                _write_durably(descriptor, lines)
            except BaseException:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(
            f"cannot append to {path}: {error.strerror or error}; its previous lines are kept"
        ) from error
    if created:
        sync_folder(path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a file of JSON lines. A file that does not exist has none; a torn last line is ignored.

    Raises:
        StorageError: the file cannot be read, or a complete line is not a JSON object.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise StorageError(f"{path}, line {number}, is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise StorageError(f"{path}, line {number}, is not a JSON object")
        records.append(record)
    return records


def rewrite_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines by these records, atomically, for example to go back to an earlier round.

    Raises:
        StorageError: as `write_atomic` and `append_line`; the previous file is kept.
    """
    write_atomic(path, b"".join([_encode(path, record) for record in records]))


def _encode(path: Path, record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(dict(record), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise StorageError(f"cannot write a line of {path}: {error}; its previous lines are kept") from error


def _write_durably(descriptor: int, data: bytes) -> None:
    _write(descriptor, data)
    os.fsync(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _end_of_lines(descriptor: int) -> int:
    """Return the offset after the last complete line."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")
