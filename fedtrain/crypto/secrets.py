"""Files that hold a secret: made once, whole, and readable by their owner alone."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from fedtrain.errors import KeyFileError, StorageError
from fedtrain.files import sync_folder

_LARGEST = 65536


def read_secret(path: Path) -> bytes:
    """Read a secret file.

    Raises:
        KeyFileError: it is missing, cannot be read, is no regular file, is larger than any key, or can be used by
            others than its owner.
    """
    data = _read(path)
    if data is None:
        raise KeyFileError(f"there is no key file {path}")
    return data


def read_or_create_secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """Read a secret file; if there is none, write what ``make`` returns, durably, and read that.

    The file appears under its name whole and with mode 0600, or not at all. Of several processes that do this at once
    one makes the file, and all return its content. Parent folders are made.

    Raises:
        KeyFileError: as `read_secret`.
        StorageError: it cannot be written. Nothing is there then.
    """
    data = _read(path)
    if data is None:
        _create(path, make())
        data = read_secret(path)
    return data


def _read(path: Path) -> bytes | None:
    try:
        # Not blocking: a named pipe in its place must not hang the program.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"the key file {path} is not a regular file")
        if status.st_mode & 0o077:
            raise KeyFileError(
                f"the key file {path} can be used by others (mode {stat.S_IMODE(status.st_mode):04o}); if one of them "
                f"may have read it, make a new key; if not, run: chmod 600 {path}"
            )
        data = os.read(descriptor, _LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST:
        raise KeyFileError(f"the key file {path} is larger than any key")
    return data


def _create(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            # A link, unlike a rename, fails where the name is taken.
            os.link(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except FileExistsError:
        return  # another process was first
    except OSError as error:
        raise StorageError(f"cannot write the key file {path}: {error.strerror or error}") from error
    sync_folder(path.parent)
