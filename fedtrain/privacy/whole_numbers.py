"""What a client sends where noise is shared: whole numbers on the grid of the plan, its share of the noise in them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.errors import ClientError
from fedtrain.privacy.integer_noise import draw
from fedtrain.privacy.shares import Grid

if TYPE_CHECKING:
    from fedtrain.privacy.noise import RandomSource

# Of so many values the measured deviation of the noise is within these of the plan's, but for a chance below 1e-15.
_ENOUGH, _RATIO = 1000, (0.8, 1.25)


def rounded(values: NDArray[np.float64], grid: Grid, *, clip_norm: float) -> NDArray[np.int32]:
    """Return values in whole grid steps, each the nearest and brought to the limit of the grid.

    Args:
        values: in the unit of the clipping norm, finite, of any shape.
        grid: the grid.
        clip_norm: the clipping norm.
    """
    steps = np.rint(values * (grid.steps / clip_norm))
    return np.clip(steps, -grid.limit, grid.limit, out=steps).astype(np.int32)


def with_share(
    values: Mapping[str, NDArray[np.float64]], grid: Grid, *, clip_norm: float, source: "RandomSource"
) -> dict[str, NDArray[np.int32]]:
    """Return what a client sends: its values in whole grid steps, plus its share of the noise.

    The noise is one draw for all arrays, in their order.

    Formal guarantee: the sum of what clients send is the sum of their whole numbers, each of which a unit changes by at
    most ``grid.l2`` and ``grid.l1`` if it changes the values by a norm of at most ``clip_norm``, plus Skellam noise of
    variance ``grid.share`` for each of them. No number is beyond ``grid.limit + grid.most``.

    Args:
        values: by name, in the unit of the clipping norm.
        grid: the grid.
        clip_norm: the clipping norm.
        source: where the noise comes from.

    Raises:
        PrivacySpecError: there are more values than the plan allows.
        ClientError: a value is not finite, or the noise that was drawn is not that of the plan.
    """
    count = sum(value.size for value in values.values())
    grid.check_length(count)
    noise = draw(grid.noise, count, source)
    if count >= _ENOUGH and not _RATIO[0] <= _deviation(noise) / grid.share**0.5 <= _RATIO[1]:
        raise ClientError("the noise that was drawn does not have the deviation of the plan; nothing is sent")
    sent, start = {}, 0
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ClientError(f"the sum of {name} is not finite; nothing is sent")
        sent[name] = rounded(value, grid, clip_norm=clip_norm)
        sent[name] += noise[start : start + value.size].reshape(value.shape)
        start += value.size
    return sent


def _deviation(noise: NDArray[np.int32]) -> float:
    """Return the standard deviation; numpy's own takes three times as long for whole numbers."""
    values = noise.astype(np.float64)
    return float(np.sqrt(max(0.0, (values @ values) / len(values) - values.mean() ** 2)))


def mean_of(
    total: Mapping[str, NDArray[Any]], grid: Grid, *, clip_norm: float, divisor: float
) -> dict[str, NDArray[np.float64]]:
    """Return the noisy mean that a sum of whole numbers stands for, in the unit of the clipping norm.

    Args:
        total: the sum, by name.
        grid: the grid.
        clip_norm: the clipping norm.
        divisor: how many units the sum is divided by, which everyone knows.
    """
    step = clip_norm / grid.steps / divisor
    return {name: np.multiply(value, step, dtype=np.float64) for name, value in total.items()}
