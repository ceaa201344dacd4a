"""The part of the report that says how good the model is."""

import math
from typing import Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from fedtrain.report.base import Count, Fraction, Part, ascending

_INEXACT = 2**53  # from it on, not every reader of JSON tells a whole number from the next


class PerClass(Part):
    """Measurements of each class, in the order of ``data.classes``."""

    precision: tuple[Fraction, ...] = Field(description="of the records called this class, the fraction that are of it")
    recall: tuple[Fraction, ...] = Field(description="of the records of this class, the fraction called so")
    f1: tuple[Fraction, ...] = Field(description="harmonic mean of precision and recall")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.precision) == len(self.recall) == len(self.f1):
            raise ValueError("precision, recall and f1 are not of one length: each needs one value for each class")
        return self


class Evaluation(Part):
    """One central evaluation on the test records. A task may add measurements of its own.

    A task of your own may measure something else: then the fields of classification are null, and its own numbers,
    lists and mappings stand beside them. A measurement that is undefined, or not finite, is null.
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
    records: Count | None = Field(None, description="test records that were evaluated")

    @property
    def own(self) -> dict[str, JsonValue]:
        """The measurements that the task added."""
        return dict(self.model_extra or {})

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


class Best(Part):
    """The round with the best accuracy on the test records.

    Chosen by accuracy on the test records, which are public to the run; never by anything of the clients.
    """

    round: Count = Field(description="the round")
    accuracy: Fraction = Field(description="its accuracy")


class Evaluations(Part):
    """All central evaluations."""

    final: Evaluation | None = Field(description="the last evaluation; null if there was none")
    best: Best | None = Field(description="the evaluation with the highest accuracy; null if none has an accuracy")
    history: tuple[Evaluation, ...] = Field(description="every evaluation, in the order of the rounds")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not ascending(tuple(evaluation.round for evaluation in self.history)):
            raise ValueError("history is not in the order of the rounds, each once")
        if self.final != (self.history[-1] if self.history else None):
            raise ValueError("final is not the last evaluation of history")
        accuracies = {entry.round: entry.accuracy for entry in self.history if entry.accuracy is not None}
        if (self.best is None) != (not accuracies):
            raise ValueError("best is to be set exactly when an evaluation of history has an accuracy")
        if self.best is not None and not (
            accuracies.get(self.best.round) == self.best.accuracy == max(accuracies.values())
        ):
            raise ValueError(
                f"best = round {self.best.round}, accuracy {self.best.accuracy} is not the best of history"
            )
        return self


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
