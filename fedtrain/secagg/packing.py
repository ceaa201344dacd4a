"""Words on the wire: of a sum that fits in fewer bytes only the low ones of each word matter."""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 16
_WORD_BYTES = 4
_LITTLE = np.dtype("<u4")


def check_vector(vector: NDArray[np.uint32], *, length: int, largest: int) -> None:
    """Check that a vector is one that can be masked and summed.

    Args:
        vector: what should be contiguous uint32 of shape (length,), two's complements.
        length: words in a vector.
        largest: the largest magnitude of a coordinate.

    Raises:
        ValueError: it is not, or a coordinate is too large.
    """
    if vector.dtype != np.uint32 or vector.shape != (length,) or not vector.flags.c_contiguous:
        raise ValueError(
            f"{vector.dtype} of shape {vector.shape}, and contiguous uint32 of shape ({length},) is expected"
        )
    signed = vector.view(np.int32)
    if signed.max() > largest or signed.min() < -largest:
        raise ValueError(f"a coordinate of the vector is larger than {largest}, and could overflow the sum")


def pack(words: NDArray[np.uint32], width: int) -> NDArray[np.uint8]:
    """Return the low bytes of each word, lowest first.

    Args:
        words: uint32, shape (length,).
        width: bytes of each that are kept, 1 to 4.

    Returns:
        uint8, shape (length * width,).
    """
    packed: NDArray[np.uint8] = words.astype(_LITTLE, copy=False).view(np.uint8).reshape(-1, _WORD_BYTES)[:, :width]
    return packed.reshape(-1)


def add_packed(total: NDArray[np.uint32], packed: NDArray[np.uint8], width: int) -> None:
    """Add packed words to a total, modulo 2^32 and in place. Above the low bytes the total means nothing.

    Args:
        total: uint32, shape (length,); changed.
        packed: uint8, shape (length * width,).
        width: bytes of each word.
    """
    wide = np.zeros((_CHUNK, _WORD_BYTES), dtype=np.uint8)
    words = wide.reshape(-1).view(_LITTLE)
    rows = packed.reshape(-1, width)
    for start in range(0, len(total), _CHUNK):
        part = total[start : start + _CHUNK]
        wide[: len(part), :width] = rows[start : start + _CHUNK]
        np.add(part, words[: len(part)], out=part)


def extend_sign(total: NDArray[np.uint32], width: int) -> None:
    """Make the low bytes of each word, a two's complement, one of 32 bits, in place."""
    unused = 8 * (_WORD_BYTES - width)
    signed = total.view(np.int32)
    np.left_shift(signed, unused, out=signed)
    np.right_shift(signed, unused, out=signed)
