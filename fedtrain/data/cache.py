"""Folders of arrays that appear whole or not at all, shared by concurrent processes.

An entry is a folder with one ``.npy`` file for each array and ``meta.json``. It is written to a temporary folder beside
its place, synced to disk and renamed, under a lock of its own; readers take no lock.

Also the digest by which a ledger knows records, which takes long to compute anew in each process.
"""

import hmac
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from fedtrain.errors import StorageError
from fedtrain.files import write_atomic
from fedtrain.ledger import dataset_digest
from fedtrain.progress import working

# The digest of fewer records is computed sooner than a file is read.
_WORTH_KEEPING = 1000


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Arrays, and the facts about them that JSON can hold."""

    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """An array that is made while it is written, so that it is never in memory as a whole.

    Attributes:
        dtype: of its numbers.
        shape: its shape.
        parts: its rows in order, each part C-contiguous and of the dtype.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Iterable[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What is written as an `Entry`."""

    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any] | Streamed]


def cache_folder(configured: str | None) -> Path:
    """Return the folder of the cache: as configured, else ``$FEDTRAIN_CACHE``, else the user's cache folder.

    Raises:
        StorageError: it is in the home of a user who is not there.
    """
    chosen = configured or os.environ.get("FEDTRAIN_CACHE")
    try:
        return Path(chosen).expanduser().absolute() if chosen else user_cache_path("fedtrain")
    except RuntimeError as error:
        raise StorageError(
            f"{chosen}: there is no user of that name on this machine; name the folder of the cache with data.cache or "
            "FEDTRAIN_CACHE"
        ) from error


def cached(folder: Path, build: Callable[[], Entry | Built]) -> Entry:
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
        with working("waiting for another process that decodes the same records"):
            lock.acquire()
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: the cache of decoded data cannot be written: {error}; "
            "choose another folder with data.cache or FEDTRAIN_CACHE"
        ) from error
    try:
        entry = _read(folder)
        if entry is None:
            built = build()
            with working("writing decoded records into the cache"):
                _write(folder, built)
            entry = _read(folder)
    finally:
        lock.release()
    if entry is None:
        raise StorageError(f"{folder}: cannot be read back after it was written; check the disk")
    return entry


def kept_digest(folder: Path, features: NDArray[Any], targets: NDArray[Any], key: bytes) -> str:
    """Return the digest of records (`fedtrain.ledger.dataset_digest`), and keep it for the next process.

    What is kept is found by the content of these very records: a keyed digest (HMAC-SHA256) of their bytes in their
    order, as they are in memory. No path, time or setting stands for them, so that records which changed, for whatever
    reason, find nothing. What is found is bound to them by a tag with the same key: a file that was edited, cut off or
    exchanged counts as absent. Both are of no use to those who do not have the key.

    Args:
        folder: where digests are kept; it may be deleted at any time.
        features: one record in each row, in C order.
        targets: as many rows.
        key: 32 bytes that only this client has.
    """
    if len(features) < _WORTH_KEEPING:
        return dataset_digest(features, targets, key)
    with working("computing the digest of the records"):
        return _kept_digest(folder, features, targets, key)


def _kept_digest(folder: Path, features: NDArray[Any], targets: NDArray[Any], key: bytes) -> str:
    form = f"fedtrain.records/1 {features.dtype.str} {features.shape} {targets.dtype.str} {targets.shape}\n"
    content = hmac.new(key, form.encode(), "sha256")
    for array in (features, targets):
        content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    path = folder / content.hexdigest()

    def tag(digest: str) -> str:
        return hmac.digest(key, f"fedtrain.kept-digest/1 {path.name} {digest}".encode(), "sha256").hex()

    with suppress(OSError, ValueError):
        digest, _, found = path.read_text(encoding="ascii").partition(" ")
        if hmac.compare_digest(found, tag(digest)):
            return digest
    digest = dataset_digest(features, targets, key)
    with suppress(OSError, StorageError):  # where it cannot be kept, the next process computes it too
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, f"{digest} {tag(digest)}".encode())
    return digest


def _read(folder: Path) -> Entry | None:
    """Map the arrays of an entry; ``None`` where it is absent, or a file is missing, truncated or not as described."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in meta["arrays"]}
        described = {name: _describe(array) for name, array in arrays.items()}
        return Entry(meta=meta["meta"], arrays=arrays) if described == meta["arrays"] else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def forget_pages(values: NDArray[Any]) -> None:
    """Let the system take back the memory of values that are read from a file, until they are read again.

    Of values that are in memory, or that may differ from the file, nothing is forgotten.
    """
    unchanged, source = False, cast("object", values)
    while isinstance(source, np.ndarray):
        unchanged, source = isinstance(source, np.memmap) and source.mode == "r", source.base
    if unchanged and isinstance(source, mmap.mmap):
        source.madvise(mmap.MADV_DONTNEED)


def _write(folder: Path, entry: Entry | Built) -> None:
    # Only the holder of the lock writes here, so a temporary folder found now was left by a process that was killed.
    temporary = folder.with_name(f"{folder.name}.tmp")
    size = sum(array.nbytes for array in entry.arrays.values())
    described = {name: _describe(array) for name, array in entry.arrays.items()}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, array in entry.arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                _save(file, array)
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


def _save(file: BinaryIO, array: NDArray[Any] | Streamed) -> None:
    if not isinstance(array, Streamed):
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        return
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.writelines(part.data for part in array.parts)


def _describe(array: NDArray[Any] | Streamed) -> dict[str, object]:
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
