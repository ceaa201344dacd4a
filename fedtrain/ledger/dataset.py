"""Know a data set by its content, so that no second name gives it a second budget."""

import hmac
from pathlib import Path
from secrets import token_bytes

import numpy as np
from numpy.typing import NDArray

from fedtrain.crypto import read_or_create_secret
from fedtrain.errors import KeyFileError

_KEY_BYTES = 32


def dataset_digest(features: NDArray[np.generic], labels: NDArray[np.generic], key: bytes) -> str:
    """Return the id of a data set: a keyed digest (HMAC-SHA256) of its records, in hexadecimal.

    It depends on the values, shapes and dtypes of the records and on how often each occurs, and on nothing else, be it
    their order, or a name or place. Who does not have the key learns nothing from it, and cannot check a guess.

    A data set with one record more is another data set. To give one its own budget is for a person to answer for.

    Args:
        features: one record in each row; numbers of any shape and dtype.
        labels: as many rows.
        key: 32 bytes that only this client has.

    Raises:
        ValueError: not as many labels as features, or values that are not numbers.
    """
    if features.ndim == 0 or labels.ndim == 0 or len(features) != len(labels):
        raise ValueError(f"features {features.shape} and labels {labels.shape} must have as many rows")
    if features.dtype.hasobject or labels.dtype.hasobject:
        raise ValueError("the records are not numbers")
    features, labels = _portable(features), _portable(labels)
    form = f"fedtrain.dataset/1 {features.dtype.str} {features.shape[1:]} {labels.dtype.str} {labels.shape[1:]}"
    digests = sorted(
        hmac.digest(key, record.tobytes() + label.tobytes(), "sha256")
        for record, label in zip(features, labels, strict=True)
    )
    return hmac.digest(key, form.encode() + b"\n" + b"".join(digests), "sha256").hex()


def dataset_key(path: Path) -> bytes:
    """Return the key of a client's data set ids: 32 random bytes in a file that is made at the first time.

    Raises:
        KeyFileError: the file can be used by others, or holds no key.
        StorageError: it cannot be written.
    """
    key = read_or_create_secret(path, lambda: token_bytes(_KEY_BYTES))
    if len(key) != _KEY_BYTES:
        raise KeyFileError(f"the key file {path} has {len(key)} bytes, and a key has {_KEY_BYTES}")
    return key


def _portable(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the values with the same bytes on every machine: little-endian."""
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
