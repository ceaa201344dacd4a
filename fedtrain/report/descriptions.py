"""What can be seen in the pictures of a report, in words, for those who cannot see them: one or two sentences each."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedtrain.report.evaluation import Best, Metric
from fedtrain.report.numbers import count, error, exact, measured, percent, score, short, upper
from fedtrain.report.privacy import PrivacyPoint

_NAME = 40


def of_metric(points: Sequence[tuple[int, float]], metric: Metric, best: Best | None, baseline: float | None) -> str:
    """Return where a metric begins and ends, its best value and its baseline."""

    def shown(value: float) -> str:
        return measured(value, metric.direction, metric.format)

    text = _ends([(number, shown(value)) for number, value in points])
    if best is not None:
        text += f" The best is {shown(best.reached)}, after round {count(best.round)}."
    if baseline is not None:
        text += f" One answer for all test records reaches {shown(baseline)}."
    return text


def of_curve(points: Sequence[tuple[int, float]]) -> str:
    """Return where a measurement begins and ends, and between what it lies."""
    if not points:
        return "There are no values."
    values = [value for _, value in points]
    shown = [(number, error(value) if value >= 0 else score(value)) for number, value in points]
    lowest, highest = shown[int(np.argmin(values))], shown[int(np.argmax(values))]
    return f"{_ends(shown)} The lowest is {lowest[1]}, the highest {highest[1]}."


def of_confusion(counts: NDArray[np.float64], classes: Sequence[str]) -> str:
    """Return how many test records are called by their own class, and which two classes are confused most often."""
    records, right = int(counts.sum()), int(np.trace(counts))
    if not records:
        return "There are no test records."
    text = f"Of {count(records)} test records, {percent(right / records)} are called by their true class."
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.any():
        return text
    true, called = divmod(int(np.argmax(wrong)), len(wrong))
    return (
        f"{text} Most often confused: {short(classes[true], _NAME)} called {short(classes[called], _NAME)}, "
        f"{count(int(wrong[true, called]))} times."
    )


def of_f1(f1: Sequence[float], classes: Sequence[str]) -> str:
    """Return the classes with the lowest and the highest F1."""
    low, high = int(np.argmin(f1)), int(np.argmax(f1))
    return (
        f"{count(len(f1))} {'class' if len(f1) == 1 else 'classes'}, from {percent(f1[low])} "
        f"({short(classes[low], _NAME)}) to {percent(f1[high])} ({short(classes[high], _NAME)})."
    )


def of_histogram(counts: NDArray[np.int64]) -> str:
    """Return how many records clients have, and of how many classes."""
    records, classes = counts.sum(axis=1), np.count_nonzero(counts, axis=1)
    return (
        f"{count(len(counts))} {'client' if len(counts) == 1 else 'clients'} with {count(int(records.min()))} to "
        f"{count(int(records.max()))} records, median {exact(float(np.median(records)))}, of "
        f"{count(int(classes.min()))} to {count(int(classes.max()))} classes."
    )


def of_epsilon(curve: Sequence[PrivacyPoint], budgets: Mapping[str, float]) -> str:
    """Return the largest epsilon at both ends, and the budgets."""
    text = f"The largest epsilon of a client: {_ends([(point.round, upper(point.max)) for point in curve]).lower()}"
    return text + "".join(f" The {label} is {exact(budget)}." for label, budget in budgets.items())


def _ends(points: Sequence[tuple[int, str]]) -> str:
    (first, start), (last, end) = points[0], points[-1]
    if first == last:
        return f"After round {count(first)}: {start}."
    return f"After round {count(first)}: {start}; after round {count(last)}: {end}."
