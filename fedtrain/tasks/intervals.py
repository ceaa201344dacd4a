"""Intervals of what was measured on the test records, by the percentile bootstrap (Efron and Tibshirani 1993, ch. 13).

Another set of test records would have given other measurements. The bootstrap draws sets of as many records from those
that there are, with replacement, and measures each: the middle 95 % of the values are the interval. Of 100 sets of test
records about 95 have an interval that holds what this model reaches on all records of their kind; of a few dozen
records, fewer. It is no range for the next set, which varies by itself too. It says nothing of other seeds, other noise
or other training records.

Nothing is trained or evaluated again for a resample. Metrics say what a measurement is made of for each record, their
outcomes, and how it is made of counts: how often each record was drawn. A resample is a column of counts, and all are
measured together. 1,000 resamples of 10,000 records take 0.2 s on one core, and as long again for each class
whose areas under curves are measured.

Metrics of your own have intervals if they have the two methods of `Resampled`:

    def outcomes(self, outputs, batch):
        return {"error": (outputs.squeeze(1) - batch["targets"]).abs()}

    def resampled(self, outcomes, counts):
        return {"mae": mean(outcomes["error"], counts)}
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtrain.tasks.base import Batch

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_TOGETHER = 500_000  # counts that are held at once: so many stay in a core's cache
_SAME = 1e-4  # a measurement from outcomes that is this close to what was reported is the same, relatively
_NOTHING_LEFT = 1e-12  # of a sum of squares: less is what rounding leaves of zero


@runtime_checkable
class Resampled(Protocol):
    """Metrics whose measurements can be made of records that are drawn several times."""

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return what the measurements are made of, each with a row for each of the n records of a batch."""

    def resampled(self, outcomes: Mapping[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Return each measurement on each resample, shape (resamples,), not a number where it is undefined.

        Args:
            outcomes: those of all n records, on the CPU.
            counts: float64 of shape (n, resamples), how often each record was drawn. Each column adds up to n.
        """


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a measurement over all records of the kind lies, as far as the test records tell: 95 % confidence, roughly.

    Attributes:
        lower: the lower end.
        upper: the upper end.
    """

    lower: float
    upper: float


def bootstrap(
    metrics: Resampled,
    outcomes: Mapping[str, Tensor],
    reported: Mapping[str, float | None],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[dict[str, Interval], tuple[str, ...]]:
    """Return the intervals of measurements, and the names of those that the outcomes do not give.

    A measurement has no interval where the resamples all give the same value, as those of one record do and those of a
    model without any error: they say nothing of records that were not seen. A resample in which a measurement is
    undefined counts as the lowest for the lower end and as the highest for the upper end; where that would be an end,
    there is no interval either.

    Args:
        metrics: the metrics.
        outcomes: what they return for the test records, n rows each.
        reported: the measurements as they were reported. One that the outcomes themselves do not give has no interval:
            metrics that inherit from others may measure otherwise, and outputs may differ from one time to the next.
        seed: of the draws.
        resamples: how many there are.

    Returns:
        The intervals by the name of the measurement, and the names of the measurements that are not as reported.
    """
    records = len(next(iter(outcomes.values())))
    plain = metrics.resampled(outcomes, torch.ones((records, 1), dtype=torch.float64))
    strange = tuple(
        name for name, value in plain.items() if name in reported and not _same(float(value[0]), reported[name])
    )
    names = [name for name in plain if reported.get(name) is not None and name not in strange]
    if not names:
        return {}, strange
    # Small tensors that stay would lie between the large ones that do not, and the process would grow with each draw.
    drawn = {name: plain[name].new_empty(resamples) for name in names}
    done = 0
    for counts in draws(records, resamples, seed):
        found = metrics.resampled(outcomes, counts)
        for name in names:
            drawn[name][done : done + counts.shape[1]] = found[name]
        done += counts.shape[1]
    ends = {name: percentiles(values.numpy()) for name, values in drawn.items()}
    return {name: interval for name, interval in ends.items() if interval is not None}, strange


def _same(found: float, reported: float | None) -> bool:
    if reported is None:
        return not np.isfinite(found)
    return bool(np.isclose(found, reported, rtol=_SAME, atol=_SAME * 1e-2))


def draws(records: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Give how often each record is in each resample, some resamples at a time: float64 of shape (records, some)."""
    generator = np.random.default_rng(seed)
    together = max(1, _TOGETHER // records)
    for start in range(0, resamples, together):
        some = min(together, resamples - start)
        places = generator.integers(records, size=(records, some)) * some + np.arange(some)
        counts = np.bincount(places.reshape(-1), minlength=records * some)
        yield torch.from_numpy(counts.reshape(records, some)).to(torch.float64)


def percentiles(values: NDArray[np.float64]) -> Interval | None:
    """Return the middle 95 % of values, both ends among them; ``None`` where they say nothing (see `bootstrap`)."""
    tail = (1 - LEVEL) / 2
    undefined = ~np.isfinite(values)
    lower = float(np.quantile(np.where(undefined, -np.inf, values), tail, method="lower"))
    upper = float(np.quantile(np.where(undefined, np.inf, values), 1 - tail, method="higher"))
    if not (np.isfinite(lower) and np.isfinite(upper)) or lower == upper:
        return None
    return Interval(lower=lower, upper=upper)


def mean(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of values, shape (n,), in each resample, shape (resamples,)."""
    return values.to(torch.float64) @ counts / counts.sum(dim=0)


def class_counts(classes: Tensor, number: int, counts: Tensor) -> Tensor:
    """Return how many records of each class each resample has, shape (classes, resamples)."""
    found = torch.zeros((number, counts.shape[1]), dtype=counts.dtype)
    return found.index_add_(0, classes, counts)


def determination(errors: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Return the coefficient of determination in each resample, not a number where all of its targets are equal."""
    targets = targets.to(torch.float64)
    centred, total = targets - targets.mean(), counts.sum(dim=0)
    squares = centred.square() @ counts
    deviations = squares - (centred @ counts).square() / total
    known = deviations > _NOTHING_LEFT * squares
    return torch.where(known, 1 - (errors.to(torch.float64).square() @ counts) / deviations, torch.nan)


def areas(scores: Tensor, truth: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas under the ROC and the precision-recall curve in each resample, each of shape (resamples,).

    The first is the probability that a record with the label has a higher score than one without, ties counted half
    (Hanley and McNeil 1982); the second is a sum of steps, one for each different score. Both are not a number where a
    resample has no record with the label, or none without.

    Args:
        scores: shape (n,).
        truth: 0 or 1, shape (n,).
        counts: shape (n, resamples).
    """
    if torch.isnan(scores).any():
        unknown = counts.new_full((counts.shape[1],), torch.nan)
        return unknown, unknown
    truth, scores = truth.to(torch.bool), scores.contiguous()
    held, order = torch.sort(scores[truth], stable=True)
    positive = counts[truth][order]
    # Records are counted by where they are among the scores with the label: at one of them, or between two. So sums run
    # over twice as many rows as there are records with the label, and not over all records.
    edges = torch.unique(held)
    places = torch.searchsorted(edges, scores) + torch.searchsorted(edges, scores, right=True)
    all_so_far = _running(_added(2 * len(edges) + 1, places, counts))
    edge = torch.searchsorted(edges, held)
    held_so_far = _running(_added(len(edges), edge, positive))
    positives, records = held_so_far[-1], all_so_far[-1]
    negatives = records - positives
    before, before_held = all_so_far[2 * edge + 1], held_so_far[edge]
    below, at_most = before - before_held, all_so_far[2 * edge + 2] - held_so_far[edge + 1]
    auroc = (positive * (below + at_most)).sum(dim=0) / 2 / (positives * negatives)
    called = (records - before).clamp(min=1)
    precision = (positive * (positives - before_held) / called).sum(dim=0) / positives
    known = (positives > 0) & (negatives > 0)
    return torch.where(known, auroc, torch.nan), torch.where(known, precision, torch.nan)


def _added(rows: int, places: Tensor, counts: Tensor) -> Tensor:
    """Return the sums of the rows of each place: shape (rows, resamples)."""
    return counts.new_zeros((rows, counts.shape[1])).index_add_(0, places, counts)


def _running(counts: Tensor) -> Tensor:
    """Return the sums of the first rows, from none to all: shape (n + 1, resamples)."""
    return torch.cat([counts.new_zeros((1, counts.shape[1])), counts.cumsum(dim=0)])


def mean_of_known(values: Sequence[Tensor]) -> Tensor:
    """Return the mean over some measurements in each resample, of those that are defined in it."""
    return torch.stack(tuple(values)).nanmean(dim=0)
