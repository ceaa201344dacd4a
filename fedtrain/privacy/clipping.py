"""The bound on one client's whole update.

Updates are ordered mappings of names to floating arrays, and hold the trained parameters only.
"""

from collections.abc import Mapping
from math import fsum, inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Update = Mapping[str, NDArray[np.floating[Any]]]

# Clipping stops short of the norm by this fraction, so that no rounding, in the norm or in a float64 sum over up to
# 50,000 clients, lets a client move the sum by more than the norm.
_HAIR = 2.0**-20


def clip_update(update: Update, clip_norm: float) -> tuple[dict[str, NDArray[np.floating[Any]]], bool]:
    """Return the update with its norm bounded, and whether the norm was within the bound before.

    The L2 norm is over all arrays together, computed in float64. The result has the names, shapes and dtypes of the
    update. In those dtypes its norm is at most ``clip_norm``, since values are rounded towards zero; to clip it again
    changes nothing.

    An update with a value that is not finite becomes zero. It is not within the bound: no bound is above its norm, and
    to count it as short would shrink the clipping norm of the clients whose updates are sound.

    Raises:
        ValueError: ``clip_norm`` is not finite and above 0.
    """
    if not 0 < clip_norm < inf:
        raise ValueError(f"clip_norm = {clip_norm!r} is not allowed: it is finite and above 0")
    # The norm is peak * length. Neither the squares nor the factor leave the range of float64, whatever the values are.
    peak = float(np.max([np.max(np.abs(value), initial=0.0) for value in update.values()], initial=0.0))
    if not isfinite(peak):
        return {name: np.zeros_like(value) for name, value in update.items()}, False
    length = sqrt(fsum(float(np.sum(np.square(_over(value, peak)))) for value in update.values()))
    norm = peak * length
    if norm <= clip_norm * (1 - _HAIR):
        return dict(update), True
    factor = clip_norm * (1 - 2 * _HAIR) / length
    return {name: _scaled(value, peak, factor) for name, value in update.items()}, norm <= clip_norm


def clip_change(
    received: Mapping[str, NDArray[Any]], trained: Mapping[str, NDArray[Any]], clip_norm: float
) -> tuple[dict[str, NDArray[Any]], bool]:
    """Return the received arrays plus the clipped change, and whether the change was within the bound before.

    The change is computed in float64, and the results have the dtypes received. In half precision the numbers of a
    dtype are far apart, and rounding to the nearest could double a short change. So a result is rounded towards what
    was received: it differs from that by at most the clipped change in each number, and by at most ``clip_norm`` in
    all. A change that is not finite becomes zero, and is not within the bound.

    Raises:
        ValueError: ``clip_norm`` is not finite and above 0.
    """
    change = {name: difference(trained[name], value) for name, value in received.items()}
    clipped, within = clip_update(change, clip_norm)
    return {name: _short(value, clipped[name]) for name, value in received.items()}, within


def _short(before: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Return an array with a change added, in its own dtype, that is no further away than the change."""
    after = moved(before, change)
    far = np.abs(difference(after, before)) > np.abs(change)
    return np.where(far, np.nextafter(after, before), after) if far.any() else after


def bits_equal(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where two arrays of one shape and dtype are the same, bit for bit: infinities, NaN, signed zeros."""
    if one.dtype.kind == "c":
        return bits_equal(one.real, other.real) & bits_equal(one.imag, other.imag)
    if one.dtype.kind != "f":
        return np.asarray(one == other)
    same = (one == other) & (np.signbit(one) == np.signbit(other))
    if (unequal := np.isnan(one)).any():
        bits = f"u{one.dtype.itemsize}"
        return np.asarray(np.where(unequal, one.view(bits) == other.view(bits), same))
    return np.asarray(same)


def difference(after: NDArray[Any], before: NDArray[Any]) -> NDArray[np.float64]:
    """Return a change in float64: zero where the two are the same, also where they are not finite, as a mask can be."""
    with np.errstate(invalid="ignore"):
        change: NDArray[np.float64] = np.subtract(after, before, dtype=np.float64)
    if np.isfinite(change).all():
        return change
    return np.where(bits_equal(after, before), 0.0, change)


def moved(before: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Return an array with a change added, in its own dtype; where the change is zero, as it was, bit for bit."""
    return np.where(change == 0, before, np.asarray(before + change, dtype=before.dtype))


def _over(value: NDArray[np.floating[Any]], peak: float) -> NDArray[np.float64]:
    return value.astype(np.float64) / (peak or 1.0)


def _scaled(value: NDArray[np.floating[Any]], peak: float, factor: float) -> NDArray[np.floating[Any]]:
    """Return ``value / peak * factor`` in the dtype of ``value``, each rounded towards zero."""
    exact = _over(value, peak) * factor
    rounded = exact.astype(value.dtype)
    return np.where(np.abs(rounded) > np.abs(exact), np.nextafter(rounded, value.dtype.type(0)), rounded)
