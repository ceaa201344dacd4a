"""What a noisy sum of vectors says of columns, and how far the noise may have moved it.

Each estimate is post-processing of the sum, and costs no privacy. Its standard error is that of the noise alone: it
says how near the estimate is to the statistic of the very records that were summed, and nothing of how near these are
to a population. For ratios it is by the delta method, to first order in the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fedtrain.statistics.columns import Column, ColumnLayout, Scaling

CERTAIN = 5.0
"""Standard errors by which a count must be above zero for anything to be divided by it."""

_NINETY_FIVE = 1.96


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and the standard error that the noise gives it.

    Attributes:
        value: the number.
        error: its standard error.
    """

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Where the statistic without noise is, with a probability of 95 %."""
        return self.value - _NINETY_FIVE * self.error, self.value + _NINETY_FIVE * self.error


@dataclass(frozen=True, kw_only=True)
class ColumnEstimates:
    """What is estimated of a column.

    Attributes:
        column: the column.
        mean: its mean, within its bounds; ``None`` where the count is not surely above zero.
        variance: its variance; 0 where noise made the estimate negative. ``None`` likewise.
        clamped: whether the estimate of the variance was negative.
        histogram: the count of each bin, which noise may make negative; empty without bins.
    """

    column: Column
    mean: Estimate | None
    variance: Estimate | None
    clamped: bool
    histogram: tuple[Estimate, ...]

    @property
    def deviation(self) -> float | None:
        """The standard deviation; ``None`` where the variance is."""
        return None if self.variance is None else sqrt(self.variance.value)

    @property
    def scaling(self) -> Scaling | None:
        """What brings the column to a mean of 0 and a variance of 1; ``None`` where the estimates allow for none."""
        if self.mean is None or not self.deviation:
            return None
        return Scaling(name=self.column.name, centre=self.mean.value, unit=self.deviation)

    def quantile(self, fraction: float) -> float | None:
        """Return a quantile, read from the histogram; ``None`` without one, or where it is of nothing but noise.

        The cumulative counts are made monotone first, by the nearest monotone numbers (isotonic regression). Within a
        bin records are taken to be spread evenly, so that the resolution is the width of a bin.

        Raises:
            ValueError: the fraction is outside of 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a quantile of {fraction} is not allowed: it is in [0, 1]")
        counts = np.array([estimate.value for estimate in self.histogram])
        if not len(counts) or counts.sum() <= CERTAIN * self.histogram[0].error * sqrt(len(counts)):
            return None
        cumulative = np.clip(monotone(np.cumsum(counts)), 0.0, None)
        edges = np.linspace(self.column.lower, self.column.upper, len(counts) + 1)
        heights = np.concatenate([[0.0], cumulative])
        return float(np.interp(fraction * heights[-1], heights, edges))


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What is estimated of a table.

    Attributes:
        count: how many records there are.
        columns: of each column, in their order.
        classes: the count of each class; empty where they are not counted.
    """

    count: Estimate
    columns: tuple[ColumnEstimates, ...]
    classes: tuple[Estimate, ...]


def estimate(layout: ColumnLayout, total: NDArray[np.floating], *, deviation: float) -> Estimates:
    """Read the statistics from a noisy sum.

    Args:
        layout: of the vectors.
        total: their noisy sum, shape (size,).
        deviation: standard deviation of the noise in each number of the sum.
    """
    values = np.asarray(total, dtype=np.float64) / layout.weight
    error = deviation / layout.weight
    width = len(layout.columns)
    ends = np.cumsum([1, width, width, width * layout.bins])
    count, means, squares, histograms, classes = np.split(values, ends)
    read = Estimate(value=float(count[0]), error=error)
    return Estimates(
        count=read,
        columns=tuple(
            _column(column, read, float(mean), float(square), _counts(bins, error))
            for column, mean, square, bins in zip(
                layout.columns, means, squares, histograms.reshape(width, layout.bins), strict=True
            )
        ),
        classes=_counts(classes, error),
    )


def _counts(values: NDArray[np.float64], error: float) -> tuple[Estimate, ...]:
    return tuple(Estimate(value=float(value), error=error) for value in values)


def _column(
    column: Column, count: Estimate, first: float, second: float, histogram: tuple[Estimate, ...]
) -> ColumnEstimates:
    """Return the estimates of a column from its noisy sums of ``t`` and of ``2 t^2 - 1``."""
    n, error = count.value, count.error
    if n <= CERTAIN * error:
        return ColumnEstimates(column=column, mean=None, variance=None, clamped=False, histogram=histogram)
    place, square = first / n, second / n
    variance = (square + 1) / 2 - place**2
    # Derivatives by the sums of t, of 2 t^2 - 1, and by the count, each over n.
    slope = (-2 * place, 0.5, 2 * place**2 - square / 2)
    mean = min(max(column.middle + column.half * place, column.lower), column.upper)
    return ColumnEstimates(
        column=column,
        mean=Estimate(value=mean, error=column.half * error / n * sqrt(1 + place**2)),
        variance=Estimate(
            value=max(0.0, variance) * column.half**2,
            error=column.half**2 * error / n * sqrt(sum(part**2 for part in slope)),
        ),
        clamped=variance < 0,
        histogram=histogram,
    )


def monotone(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest numbers, in least squares, that do not fall: isotonic regression by pooling neighbours.

    >>> monotone([1.0, 3.0, 2.0]).tolist()
    [1.0, 2.5, 2.5]
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            before, more = pools.pop()
            mean, size = (mean * size + before * more) / (size + more), size + more
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])
