"""What a schema file can say of a column."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_CATEGORIES = 1000
"""More values are no categories, but text or an identifier."""

LAST_MOMENT = 1 - 1e-9
"""The end of a day, as a fraction of it: what is later counts as this, so that it is no part of the next day."""

_DIRECTIVES = frozenset("YmdHMSfjy%")

Missing = Literal["refuse", "indicator"]
Strings = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """A part of a schema file: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AnyColumn(Strict):
    """What all columns have."""

    decisive: ClassVar[bool] = True
    """Whether features or the target depend on it."""

    def feature_names(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - most columns that are no features
        """Return the names of the features that it becomes."""
        return ()


class _Bounded(AnyColumn):
    """A column between public bounds.

    Attributes:
        outside: what becomes of a value outside: it is refused, or counts as the bound that is nearer.
        missing: what becomes of a missing value: it is refused, or a feature of its own says that it is missing.
    """

    outside: Literal["refuse", "clip"] = "refuse"
    missing: Missing = "refuse"

    def feature_names(self, name: str) -> tuple[str, ...]:
        """Return that of the value, and that of the indicator where there is one."""
        return (name, f"{name} missing") if self.missing == "indicator" else (name,)


class NumberColumn(_Bounded):
    """A number, scaled by its bounds.

    Attributes:
        lower: the lower bound.
        upper: the upper bound.
        constant: what stands in the place of a missing value; unset: the middle of the bounds.
    """

    kind: Literal["number"]
    lower: Finite
    upper: Finite
    constant: Finite | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds."""
        return self.lower, self.upper

    @property
    def stand_in(self) -> float:
        """What stands in the place of a missing value."""
        return (self.lower + self.upper) / 2 if self.constant is None else self.constant

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_bounds(self.lower, self.upper, self.constant, self.missing)
        return self


class DateColumn(_Bounded):
    """A date, scaled by its bounds as a number of days.

    Attributes:
        format: how it is written, in directives of ``strptime`` that are numbers: ``%Y-%m-%d``, ``%d.%m.%Y %H:%M``.
        lower: the first day.
        upper: the last day.
        constant: what stands in the place of a missing value; unset: the middle of the bounds.
    """

    kind: Literal["date"]
    format: str
    lower: date
    upper: date
    constant: date | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds, in days: from the beginning of the first to the end of the last."""
        return float(self.lower.toordinal()), self.upper.toordinal() + LAST_MOMENT

    @property
    def stand_in(self) -> float:
        """What stands in the place of a missing value, in days."""
        return sum(self.bounds) / 2 if self.constant is None else float(self.constant.toordinal())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = re.findall(r"%(.?)", self.format)
        if not found or not set(found) <= _DIRECTIVES:
            allowed = ", ".join(f"%{letter}" for letter in "YymdjHMSf")
            raise ValueError(f"format = {self.format!r} is made of other directives than {allowed}, or of none")
        if not {"Y", "y"} & set(found):
            raise ValueError(f"format = {self.format!r} names no year; it needs %Y or %y")
        _check_bounds(self.lower, self.upper, self.constant, self.missing)
        return self


class CategoryColumn(AnyColumn):
    """One of several values: a feature for each, 1 where the record has it and 0 elsewhere.

    Attributes:
        values: the categories.
        aliases: other ways to write a category, each with the category that it stands for.
        unseen: what becomes of any other value: it counts as one further category, or is refused.
        missing: what becomes of a missing value: it counts as a category of its own, or is refused.
    """

    kind: Literal["category"]
    values: Strings
    aliases: dict[str, str] = Field(default_factory=dict)
    unseen: Literal["other", "refuse"] = "other"
    missing: Missing = "refuse"

    def feature_names(self, name: str) -> tuple[str, ...]:
        """Return that of each category, then that of others and that of a missing value, where there are such."""
        also = [f"{name} other"] * (self.unseen == "other") + [f"{name} missing"] * (self.missing == "indicator")
        return (*(f"{name} = {value}" for value in self.values), *also)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_values(self.values, self.aliases)
        return self


class BooleanColumn(AnyColumn):
    """Yes or no, as ``true``, ``yes``, ``y``, ``t`` or ``1``, and their opposites, in capital or small letters.

    Attributes:
        missing: what becomes of a missing value: it is refused, or a feature of its own says that it is missing, and
            the value is in the middle of both.
    """

    kind: Literal["boolean"]
    missing: Missing = "refuse"

    def feature_names(self, name: str) -> tuple[str, ...]:
        """Return that of the value, and that of the indicator where there is one."""
        return (name, f"{name} missing") if self.missing == "indicator" else (name,)


class TargetColumn(AnyColumn):
    """What is predicted: one of several classes, or a number between bounds, scaled like other numbers.

    A missing target is refused.

    Attributes:
        values: the classes, in the order of their numbers.
        aliases: other ways to write a class, each with the class that it stands for.
        lower: the lower bound of a number.
        upper: the upper bound of a number.
        outside: what becomes of a number outside: it is refused, or counts as the bound that is nearer.
    """

    kind: Literal["target"]
    values: Strings | None = None
    aliases: dict[str, str] = Field(default_factory=dict)
    lower: Finite | None = None
    upper: Finite | None = None
    outside: Literal["refuse", "clip"] = "refuse"

    @property
    def number(self) -> NumberColumn | None:
        """The target as a column of numbers; ``None`` where it is a class."""
        if self.lower is None or self.upper is None:
            return None
        return NumberColumn(kind="number", lower=self.lower, upper=self.upper, outside=self.outside)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.values is not None:
            if self.lower is not None or self.upper is not None or self.outside != "refuse":
                raise ValueError("values is for classes, and lower, upper and outside are for a number; set either")
            _check_values(self.values, self.aliases)
            if len(self.values) < 2:  # noqa: PLR2004 - fewer cannot be told apart
                raise ValueError("values has fewer than 2 classes")
        elif self.lower is None or self.upper is None or self.aliases:
            raise ValueError("a target has values, the classes, or lower and upper, the bounds of a number")
        else:
            _check_bounds(self.lower, self.upper, None, "refuse")
        return self


class OwnerColumn(AnyColumn):
    """Names the owner of a record, for a natural partition (``data.partition.column``), and is no feature."""

    decisive = False
    kind: Literal["owner"]


class IgnoredColumn(AnyColumn):
    """Is passed over; a file need not have it."""

    decisive = False
    kind: Literal["ignore"]


Column = NumberColumn | DateColumn | CategoryColumn | BooleanColumn | TargetColumn | OwnerColumn | IgnoredColumn
COLUMN_KINDS: dict[str, type[AnyColumn]] = {
    "number": NumberColumn,
    "category": CategoryColumn,
    "boolean": BooleanColumn,
    "date": DateColumn,
    "target": TargetColumn,
    "owner": OwnerColumn,
    "ignore": IgnoredColumn,
}


def _check_bounds(lower: Any, upper: Any, constant: Any, missing: Missing) -> None:
    if not lower < upper:
        raise ValueError(f"lower = {lower} is not below upper = {upper}")
    if constant is not None and missing == "refuse":
        raise ValueError('constant stands for a missing value, and missing = "refuse"; set missing = "indicator"')
    if constant is not None and not lower <= constant <= upper:
        raise ValueError(f"constant = {constant} is not between lower = {lower} and upper = {upper}")


def _check_values(values: tuple[str, ...], aliases: Mapping[str, str]) -> None:
    if not 0 < len(values) <= MAX_CATEGORIES:
        raise ValueError(f"values has {len(values):,} categories; allowed: 1 to {MAX_CATEGORIES:,}")
    for value in (*values, *aliases):
        if not value or value != value.strip():
            raise ValueError(f"values has {value!r}, which is empty or has a space at an end")
    if twice := [value for value, count in Counter((*values, *aliases)).items() if count > 1]:
        raise ValueError(f"{twice[0]!r} is there twice")
    if unknown := [value for value in aliases.values() if value not in values]:
        raise ValueError(f"aliases has {unknown[0]!r}, which is none of the values")
