"""Values as whole numbers that can be summed exactly: clipped, on a grid, and rounded at random so that none is biased.

The grid has the step ``bound / largest``. A value between two points of it becomes one of them, each with the
probability that makes the expected value right; 0 stays 0 and a point stays itself. The rounding protects nothing: its
randomness need not be secret, and repeats with the generator's seed.

On the wire such numbers are packed: of a sum that fits in fewer bytes only the low ones of each word matter.
"""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from fedtrain.secagg.parameters import Parameters

_CHUNK = 1 << 16
_EXACT = 2.0**-51
_WORD_BYTES = 4
_LITTLE = np.dtype("<u4")


def quantize(
    values: NDArray[np.floating], *, parameters: Parameters, random: np.random.Generator
) -> NDArray[np.uint32]:
    """Return values as words of a vector that can be masked.

    Args:
        values: float32 or float64, shape (count,), in the unit of ``parameters.bound``, beyond which they are clipped.
        parameters: the bits and the bound.
        random: decides which way each value is rounded.

    Returns:
        uint32, shape (count,): whole numbers from ``-largest`` to ``largest`` as two's complements.

    Raises:
        ValueError: another type or shape, or a value is not finite.
    """
    if values.dtype not in (np.float32, np.float64) or values.ndim != 1:
        raise ValueError(f"{values.dtype} of shape {values.shape}, and float32 or float64 of one dimension is expected")
    words = np.empty(len(values), dtype=np.uint32)
    step = parameters.step
    # In parts, so that what is held on the way stays in a core's cache.
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK].astype(np.float64)
        if not np.isfinite(part).all():
            raise ValueError(f"a value between {start} and {start + len(part)} is not finite")
        scaled = np.clip(part, -parameters.bound, parameters.bound) / step
        rounded: NDArray[np.float64] = np.floor(scaled)
        rounded += random.random(len(part)) < scaled - rounded
        # The quotient of a point of the grid, the bound included, may miss its whole number by the last bits.
        nearest = np.rint(scaled)
        np.copyto(rounded, nearest, where=np.abs(scaled - nearest) <= _EXACT * np.abs(nearest))
        words[start : start + _CHUNK].view(np.int32)[:] = rounded
    return words


def dequantize(total: NDArray[np.uint32], *, parameters: Parameters) -> NDArray[np.float64]:
    """Return the values that a sum of quantized vectors stands for, in the unit of the bound.

    Args:
        total: uint32, shape (count,): two's complements, as `ServerRound.finish` returns them.
        parameters: those that the vectors were quantized with.

    Returns:
        float64, shape (count,).
    """
    return np.multiply(total.view(np.int32), parameters.step, dtype=np.float64)


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
        uint8, shape (length * width,), read-only: a view of bytes, which are written once.
    """
    file = BytesIO()
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK].astype(_LITTLE, copy=False)
        file.write(part.view(np.uint8).reshape(-1, _WORD_BYTES)[:, :width].tobytes())
    return np.frombuffer(file.getvalue(), np.uint8)


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
