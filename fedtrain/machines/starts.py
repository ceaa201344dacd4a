"""Whether a run folder holds a run, or only what is left of a start after which none began.

A start writes keys and who takes part before its clients are there. Where too few come, it takes that away again; one
that is killed leaves it. It binds nobody, so the name of the folder is free.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from fedtrain.errors import ConfigError, StorageError
from fedtrain.files import write_atomic

LEFT = ("starts.json", "roster.json", "membership.json", "keys/server.pem", "identity.json", "keys/records.key")
"""What a start writes before a run begins, in the order in which it is taken away.

``identity.json``, which shows that a start wrote the others, is written before them and goes after them.
"""

_FOLDERS = ("checkpoints", "keys")
_TEMPORARY = ".tmp"
_PATIENCE = 10.0  # seconds for workers of a server that was killed to end, too
_PAUSE = 0.05


def holds_run(folder: Path) -> bool:
    """Say whether there is more in a folder than a start leaves."""
    if not folder.is_dir():
        return folder.exists()
    return any(
        file.relative_to(folder).as_posix() not in LEFT and not file.name.endswith(_TEMPORARY)
        for file in folder.rglob("*")
        if file.is_symlink() or not file.is_dir()
    )


def clear(folder: Path) -> None:
    """Take away what is left of a start, and leave the folder, which may be held.

    Raises:
        OSError: it cannot be removed.
    """
    for name in LEFT:
        (folder / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        with suppress(OSError):  # there is none, or it holds something else
            (folder / name).rmdir()


def discard(folder: Path) -> None:
    """Take away what is left of a start, and the folder if nothing else is in it.

    Raises:
        OSError: it cannot be removed.
    """
    clear(folder)
    with suppress(OSError):
        folder.rmdir()


def count_start(path: Path) -> tuple[str, int]:
    """Count a start of the server of a run.

    Args:
        path: the file of the count, which is made where there is none.

    Returns:
        The id of a run without a record, and which start this is, from 1.

    Raises:
        StorageError: it cannot be read or written.
    """
    try:
        before = json.loads(path.read_text(encoding="ascii"))
        run, count = str(before["run"]), int(before["starts"])
    except FileNotFoundError:
        run, count = token_hex(16), 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"cannot read {path}, which counts the starts of the run: {error}") from error
    write_atomic(path, json.dumps({"run": run, "starts": count + 1}).encode())
    return run, count + 1


@contextmanager
def held(folder: Path, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold a run folder for this process, so that no two write the same run.

    Raises:
        ConfigError: another process holds it.
    """
    descriptor = _locked(folder, patience)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Say whether a process holds a run folder."""
    try:
        with held(folder, patience=0.0):
            return False
    except ConfigError:
        return True


def _locked(folder: Path, patience: float) -> int | None:
    """Return a descriptor that holds a folder; ``None`` where the file system has no such locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EAGAIN}:
                os.close(descriptor)
                return None
            if time.monotonic() >= end:
                os.close(descriptor)
                raise ConfigError(
                    f"another process is running or starting a run in {folder}: wait for it, or name another folder "
                    "(--out)"
                ) from error
            time.sleep(_PAUSE)
        else:
            return descriptor
