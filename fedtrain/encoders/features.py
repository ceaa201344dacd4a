"""The features of records, computed once and kept.

They are found again by the digest of the encoder and the content of the records: no path, time or setting stands for
them. They are of the same records, so that they are kept where the decoded records are, and are as private.
"""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.data.cache import Built, Streamed, cached
from fedtrain.data.site import kept
from fedtrain.data.types import Split
from fedtrain.encoders.base import Encoder
from fedtrain.errors import TaskError
from fedtrain.progress import working

FORMAT = "fedtrain.features/1"

_PART = 64  # records whose features are written together


def encoded(split: Split, encoder: Encoder | None, folder: Path, *, own: bool = False) -> Split:
    """Return records with the features that an encoder computes of each, one record at a time.

    Args:
        split: the records.
        encoder: the encoder; with ``None`` the records are returned as they are.
        folder: where features are kept, in files that may be deleted at any time.
        own: whether it is the cache of a site of its own, which no other user reads.

    Returns:
        The features have shape (n, *encoder.info.shape), float32, or int32 where they are tokens. They are
        memory-mapped and read-only.

    Raises:
        TaskError: the encoder fails, or returns other features for a record after it has seen other records.
        StorageError: the features cannot be written.
    """
    if encoder is None:
        return split
    with working("looking for the features of the records"):
        name = f"features-{_key(split.features, encoder)}"
    if own:
        entry = kept(folder, name, lambda: _built(split.features, encoder))
    else:
        entry = cached(folder / name, lambda: _built(split.features, encoder))
    return replace(split, features=entry.arrays["features"])


def _key(features: NDArray[np.generic], encoder: Encoder) -> str:
    """Return what identifies features: a digest of the encoder, of where it computes, and of the records."""
    form = f"{FORMAT} {encoder.digest} {encoder.device.type} {features.dtype.str} {features.shape}\n"
    digest = sha256(form.encode())
    digest.update(np.ascontiguousarray(features).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def _built(records: NDArray[np.generic], encoder: Encoder) -> Built:
    shape = (len(records), *encoder.info.shape)
    features = Streamed(dtype=np.dtype(encoder.info.features.dtype), shape=shape, parts=_parts(records, encoder))
    return Built(meta={"encoder": encoder.name}, arrays={"features": features})


def _parts(records: NDArray[np.generic], encoder: Encoder) -> Iterator[NDArray[Any]]:
    first = encoder.encode(records[0])
    with working("computing the features of the records", len(records)) as done:
        for start in range(0, len(records), _PART):
            yield np.stack([encoder.encode(record) for record in records[start : start + _PART]])
            done(min(start + _PART, len(records)))
    if not np.array_equal(encoder.encode(records[0]), first):
        raise TaskError(
            "the encoder returns other features for a record after it has seen other records: it draws at random, or "
            "keeps something of the records that it sees. The features of a record must be its own alone, or clipping "
            "bounds nothing; compute them in eval() mode, from fixed weights"
        )
