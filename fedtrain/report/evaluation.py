"""The part of the report that says how good the model is."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from fedtrain.report.parts import Count, Fraction, Part, ascending

_INEXACT = 2**53  # from it on, not every reader of JSON tells a whole number from the next


def _is_none(value: object) -> bool:
    return value is None


class PerClass(Part):
    """Measurements of each class, in the order of ``data.classes``."""

    precision: tuple[Fraction, ...] = Field(description="of the records called this class, the fraction that are of it")
    recall: tuple[Fraction, ...] = Field(description="of the records of this class, the fraction called so")
    f1: tuple[Fraction, ...] = Field(description="harmonic mean of precision and recall")
    auroc: tuple[Fraction | None, ...] | None = Field(
        None,
        description="area under the ROC curve of the class against all others, null where all records or none are of "
        "it; left out where it was not measured",
        exclude_if=_is_none,
    )
    average_precision: tuple[Fraction | None, ...] | None = Field(
        None,
        description="area under the precision-recall curve as a sum of steps, likewise",
        exclude_if=_is_none,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lengths = {len(values) for _, values in self if values is not None}
        if len(lengths) > 1:
            raise ValueError("precision, recall and f1 are not of one length: each needs one value for each class")
        return self


class Threshold(Part):
    """What a threshold on the probability of the second of two classes calls. With a zero divisor a ratio is 0."""

    threshold: Fraction = Field(description="records with this probability or a higher one are called")
    called: Count = Field(description="test records that are called")
    precision: Fraction = Field(description="of the called records, the fraction that are of the class")
    recall: Fraction = Field(description="of the records of the class, the fraction called")
    specificity: Fraction = Field(description="of the other records, the fraction not called")


class Evaluation(Part):
    """One central evaluation on the test records. A task may add measurements of its own.

    A classifier also measures ``balanced_accuracy`` and, of up to 100 classes, ``auroc`` and ``average_precision``. A
    task of your own may measure something else: then the fields of classification are null, and its own numbers, lists
    and mappings stand beside them. A measurement that is undefined, or not finite, is null.
    """

    model_config = ConfigDict(extra="allow")

    round: Count = Field(description="rounds trained before it; 0 is the initial model")
    loss: float | None = Field(None, description="mean loss over the test records")
    accuracy: Fraction | None = Field(None, description="fraction of the test records classified correctly")
    precision: Fraction | None = Field(None, description="precision, unweighted mean over the classes")
    recall: Fraction | None = Field(None, description="recall, unweighted mean over the classes")
    f1: Fraction | None = Field(None, description="F1, unweighted mean over the classes")
    per_class: PerClass | None = Field(None, description="the same for each class")
    confusion: tuple[tuple[Count, ...], ...] | None = Field(
        None, description="test records, a row for each true class and a column for each predicted class"
    )
    calibration_error: Fraction | None = Field(None, description="expected calibration error")
    thresholds: tuple[Threshold, ...] | None = Field(
        None,
        description="of two classes, what thresholds on the probability of the second call; in the last and the best "
        "evaluation, and left out elsewhere",
        exclude_if=_is_none,
    )
    records: Count | None = Field(None, description="test records that were evaluated")

    @property
    def own(self) -> dict[str, JsonValue]:
        """The measurements that the task added."""
        return dict(self.model_extra or {})

    def value(self, name: str) -> float | None:
        """Return a measurement that is a number; ``None`` where it is undefined or no number."""
        found = getattr(self, name, None)
        return float(found) if isinstance(found, int | float) else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.confusion is not None and any(len(row) != len(self.confusion) for row in self.confusion):
            raise ValueError("confusion is not square: it needs one row and one column for each class")
        for name, value in self.own.items():
            if not _is_measurement(value):
                raise ValueError(
                    f"{name} = {value!r} is not allowed: measurements are finite numbers, whole ones below 2**53, null "
                    "where undefined, and lists and mappings of them"
                )
        return self


class Metric(Part):
    """How to read a measurement that is a single number."""

    name: str = Field(description="its name in an evaluation")
    direction: Literal["higher", "lower"] = Field(description="which values are better")
    format: Literal["percent", "number"] = Field(description="a fraction shown in percent, or a number")


CLASSIFICATION = (
    *(Metric(name=name, direction="higher", format="percent") for name in ("accuracy", "precision", "recall", "f1")),
    *(Metric(name=name, direction="lower", format="number") for name in ("loss", "calibration_error")),
)
"""How to read the measurements of a classifier that measures no areas under curves. A report leaves it out, as those
did that knew nothing else."""


class Best(Part):
    """The round with the best model, by the first of the metrics on the test records.

    The test records are public to the run; nothing of the clients has a part in the choice.
    """

    round: Count = Field(description="the round")
    accuracy: Fraction | None = Field(
        None, description="its accuracy, where that chooses the best; left out otherwise", exclude_if=_is_none
    )
    value: float | None = Field(
        None, description="its value of another metric that chooses the best; left out otherwise", exclude_if=_is_none
    )

    @property
    def reached(self) -> float:
        """The value of the metric that chose it."""
        found = self.value if self.accuracy is None else self.accuracy
        assert found is not None  # validated
        return found

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.accuracy is None) == (self.value is None):
            raise ValueError("best is to have either an accuracy or the value of another metric")
        return self


class Interval(Part):
    """Where the measurement over all records of the kind lies, as far as the test records tell."""

    lower: float = Field(description="the lower end")
    upper: float = Field(description="the upper end")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lower > self.upper:
            raise ValueError(f"lower = {self.lower} is above upper = {self.upper}")
        return self


class Intervals(Part):
    """Intervals of measurements that are single numbers, by the percentile bootstrap over the test records.

    They say how much the choice of the test records matters, and nothing of other seeds, noise or training records. The
    best round was chosen on the same records, so that its interval is too good. A measurement without an interval is
    left out: all resamples agree, some leave it undefined, or it has none, as the calibration error.
    """

    level: Fraction = Field(
        description="fraction of sets of test records whose interval holds what the model reaches on all records of"
        " their kind, roughly"
    )
    resamples: Annotated[int, Field(ge=1)] = Field(description="sets of test records that were drawn")
    final: dict[str, Interval] = Field(description="intervals of the last evaluation, by metric")
    best: dict[str, Interval] | None = Field(
        None,
        description="intervals of the best evaluation; left out where that is the last",
        exclude_if=_is_none,
    )


class OfGroup(Part):
    """What was measured on some of the test records after the last round."""

    records: Annotated[int, Field(ge=1)] = Field(description="test records of it")
    values: dict[str, float | None] = Field(description="what was measured on them, by metric; null where undefined")
    intervals: dict[str, Interval] = Field(description="intervals of these, by metric, as those of all test records")


class Group(OfGroup):
    """A group of the test records."""

    name: str = Field(description="what the column says")


class OtherGroups(OfGroup):
    """All groups that are not shown alone, together."""

    groups: Count = Field(description="how many they are")


class Groups(Part):
    """What the last model reaches on groups of the test records, as a column of these names them.

    A small group is not shown alone, and cannot be computed from what is shown: then the smallest of the others is put
    together with it. Few records make wide intervals, and of many groups some differ by chance alone.
    """

    column: str = Field(description="the column that names the groups")
    smallest: Annotated[int, Field(ge=1)] = Field(description="records that a group has at least to be shown alone")
    groups: tuple[Group, ...] = Field(description="the groups, by name; at most 100, the largest")
    others: OtherGroups | None = Field(
        None, description="all other groups together; left out where there are none", exclude_if=_is_none
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [group.name for group in self.groups]
        if names != sorted(set(names)):
            raise ValueError("groups are not in the order of their names, each once")
        if small := [group.name for group in self.groups if group.records < self.smallest]:
            raise ValueError(f"the group {small[0]!r} has fewer records than smallest = {self.smallest}")
        return self


class Evaluations(Part):
    """All central evaluations."""

    metrics: tuple[Metric, ...] = Field(
        CLASSIFICATION,
        description="how to read the measurements that are single numbers; the first chooses the best model. Left out "
        "where they are those of a classifier without areas under curves",
        exclude_if=lambda metrics: metrics == CLASSIFICATION,
    )
    final: Evaluation | None = Field(description="the last evaluation; null if there was none")
    best: Best | None = Field(description="the first best evaluation by the first of metrics; null if none has it")
    history: tuple[Evaluation, ...] = Field(description="every evaluation, in the order of the rounds")
    baseline: dict[str, float] | None = Field(
        None,
        description="what the best constant answer reaches on the test records, by metric: the most frequent class, "
        "the mean or for MAE the median, the frequency of each label; left out where it is not known",
        exclude_if=_is_none,
    )
    intervals: Intervals | None = Field(
        None,
        description="intervals of the last and of the best evaluation; left out where the run did not complete, and "
        "where the task gives none",
        exclude_if=_is_none,
    )

    groups: Groups | None = Field(
        None,
        description="results of groups of the test records after the last round; left out where no column names "
        "groups, where the run did not complete, and where the task gives no intervals",
        exclude_if=_is_none,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not ascending(tuple(evaluation.round for evaluation in self.history)):
            raise ValueError("history is not in the order of the rounds, each once")
        if self.final != (self.history[-1] if self.history else None):
            raise ValueError("final is not the last evaluation of history")
        if len({metric.name for metric in self.metrics}) != len(self.metrics):
            raise ValueError("metrics names a measurement twice")
        self._check_intervals()
        self._check_groups()
        expected = best_of(self.history, self.metrics)
        if (self.best is None) != (expected is None):
            named = (
                f"has the metric {self.metrics[0].name}" if self.metrics else "could be the best: there is no metric"
            )
            raise ValueError(f"best is to be set exactly when an evaluation of history {named}")
        if self.best is not None and expected is not None and not self._is_best(self.best, expected):
            raise ValueError(
                f"best = round {self.best.round}, {self.metrics[0].name} {self.best.reached} is not the best of history"
            )
        return self

    def interval(self, name: str) -> Interval | None:
        """Return the interval of a measurement of the last evaluation; ``None`` if there is none."""
        return None if self.intervals is None else self.intervals.final.get(name)

    def _check_intervals(self) -> None:
        if self.intervals is None:
            return
        if self.final is None:
            raise ValueError("intervals are of the last evaluation, and there is none")
        known = {metric.name for metric in self.metrics}
        for names in (self.intervals.final, self.intervals.best or {}):
            if strange := sorted(set(names) - known):
                raise ValueError(f"intervals has {strange[0]}, which metrics does not name")

    def _check_groups(self) -> None:
        if self.groups is None:
            return
        parts: list[OfGroup] = [*self.groups.groups, *([self.groups.others] if self.groups.others else [])]
        if self.final is None or sum(part.records for part in parts) > (self.final.records or 0):
            raise ValueError("groups have more records than the last evaluation")
        known = {metric.name for metric in self.metrics}
        for part in parts:
            if strange := sorted({*part.values, *part.intervals} - known):
                raise ValueError(f"groups has {strange[0]}, which metrics does not name")

    def _is_best(self, reported: Best, expected: Best) -> bool:
        """Say whether an evaluation is one of the best; of several equal ones any may be named."""
        values = {entry.round: entry.value(self.metrics[0].name) for entry in self.history}
        return (reported.value, reported.accuracy, values.get(reported.round)) == (
            expected.value,
            expected.accuracy,
            expected.reached,
        )


def better(one: float, other: float, metric: Metric) -> bool:
    """Say whether a value of a metric is better than another."""
    return one > other if metric.direction == "higher" else one < other


def best_of(history: Sequence[Evaluation], metrics: Sequence[Metric]) -> Best | None:
    """Return the first of the evaluations with the best value of the first metric; ``None`` if none has a value."""
    if not metrics:
        return None
    metric = metrics[0]
    values = [(entry.round, entry.value(metric.name)) for entry in history]
    scored = [(value, round_number) for round_number, value in values if value is not None]
    if not scored:
        return None
    sign = -1 if metric.direction == "higher" else 1
    value, round_number = min(scored, key=lambda pair: (sign * pair[0], pair[1]))
    return Best(round=round_number, **{"accuracy" if metric.name == "accuracy" else "value": value})


LARGE = 100
"""Classes, labels or numbers of one measurement beyond which what is measured of each is kept of few evaluations."""


def slim(evaluation: Evaluation) -> Evaluation:
    """Return what is kept of every evaluation of a history: what does not grow with the classes.

    The confusion matrix and the thresholds are left out. Where there are more than 100 classes, so is what is measured
    of each, and of a task's own measurements those of more than 100 numbers.
    """
    left: dict[str, None] = {name: None for name, value in evaluation.own.items() if _numbers(value) > LARGE}
    left |= {name: None for name in ("confusion", "thresholds") if getattr(evaluation, name) is not None}
    if evaluation.per_class is not None and len(evaluation.per_class.f1) > LARGE:
        left["per_class"] = None
    return evaluation.model_copy(update=left) if left else evaluation


def kept(history: Sequence[Evaluation], metrics: Sequence[Metric]) -> tuple[Evaluation, ...]:
    """Return a history in which the last and the best evaluation are whole, and the others as `slim` leaves them."""
    whole = {evaluation.round for evaluation in history[-1:]}
    if (best := best_of(history, metrics)) is not None:
        whole.add(best.round)
    return tuple(evaluation if evaluation.round in whole else slim(evaluation) for evaluation in history)


def _numbers(value: JsonValue) -> int:
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    return sum(map(_numbers, value)) if isinstance(value, list) else 1


def is_empty(evaluation: Evaluation) -> bool:
    """Say whether an evaluation measured nothing, as one does that failed."""
    return all(value is None for name, value in evaluation if name != "round")


def not_finite(evaluation: Evaluation, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return the errors of a model that an evaluation has no finite value of: the loss, and one that chooses the best.

    An area under a curve can be undefined on sound outputs. An error is undefined where an output is not finite, or so
    large that its error is not. Where nothing at all was measured, nothing is known of the outputs.
    """
    if is_empty(evaluation):
        return ()
    errors = [metric.name for metric in metrics if metric.direction == "lower"]
    watched = {"loss", *(metric.name for metric in metrics[:1])}
    return tuple(name for name in errors if name in watched and evaluation.value(name) is None)


def _is_measurement(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return all(_is_measurement(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_measurement(item) for item in value)
    if isinstance(value, bool | str):
        return False
    if isinstance(value, int):
        return abs(value) < _INEXACT
    return value is None or math.isfinite(value)
