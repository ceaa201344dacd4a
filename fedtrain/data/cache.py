"""Folders of arrays that appear whole or not at all, shared by concurrent processes.

An entry is a folder with one ``.npy`` file for each array and ``meta.json``. It is written to a temporary folder beside
its place, synced to disk and renamed, under a lock of its own; readers take no lock.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from fedtrain.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Arrays, and the facts about them that JSON can hold."""

    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def cache_folder(configured: str | None) -> Path:
    """Return the folder of the cache: as configured, else ``$FEDTRAIN_CACHE``, else the user's cache folder."""
    chosen = configured or os.environ.get("FEDTRAIN_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("fedtrain")


def cached(folder: Path, build: Callable[[], Entry]) -> Entry:
    """Return the entry at a folder, memory-mapped read-only, and build it first where it is absent or damaged.

    Of several processes that ask at once, one builds and the others wait for it.

    Raises:
        StorageError: the entry cannot be written; nothing of it is left.
    """
    entry = _read(folder)
    if entry is not None:
        return entry
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: the cache of decoded data cannot be written: {error}; "
            "choose another folder with data.cache or FEDTRAIN_CACHE"
        ) from error
    try:
        entry = _read(folder)
        if entry is None:
            _write(folder, build())
            entry = _read(folder)
    finally:
        lock.release()
    if entry is None:
        raise StorageError(f"{folder}: cannot be read back after it was written; check the disk")
    return entry


def _read(folder: Path) -> Entry | None:
    """Map the arrays of an entry; ``None`` where it is absent, or a file is missing, truncated or not as described."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in meta["arrays"]}
        described = {name: _describe(array) for name, array in arrays.items()}
        return Entry(meta=meta["meta"], arrays=arrays) if described == meta["arrays"] else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(folder: Path, entry: Entry) -> None:
    # Only the holder of the lock writes here, so a temporary folder found now was left by a process that was killed.
    temporary = folder.with_name(f"{folder.name}.tmp")
    size = sum(array.nbytes for array in entry.arrays.values())
    described = {name: _describe(array) for name, array in entry.arrays.items()}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, array in entry.arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        with (temporary / "meta.json").open("w", encoding="utf-8") as text:
            json.dump({"meta": dict(entry.meta), "arrays": described}, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        _sync(temporary)
        if folder.exists():  # a damaged entry; processes that have mapped it keep their files
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        free = shutil.disk_usage(folder.parent).free
        raise StorageError(
            f"{folder}: the decoded data cannot be written: {error}; it takes {_megabytes(size)} and "
            f"{_megabytes(free)} are free; make room, or choose another folder with data.cache or FEDTRAIN_CACHE"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _describe(array: NDArray[Any]) -> dict[str, object]:
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
