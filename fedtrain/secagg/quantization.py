"""Values as whole numbers that can be summed exactly: clipped, on a grid, and rounded at random so that none is biased.

The grid has the step ``bound / largest``. A value between two points of it becomes one of them, each with the
probability that makes the expected value right; 0 stays 0 and a point stays itself. The rounding protects nothing: its
randomness need not be secret, and repeats with the generator's seed.
"""

import numpy as np
from numpy.typing import NDArray

from fedtrain.secagg.parameters import Parameters

_CHUNK = 1 << 16
_EXACT = 2.0**-51


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
