"""The schema file of a table: what each column means, in public, the same for a simulation and for every site.

Records of a table become features by the schema alone. Nothing is found in the records: neither types nor bounds,
neither categories nor how many there are. So two sites whose files look different give features that mean the same.

Example::

    scale = "-1 to 1"

    [csv]
    missing = ["", "?"]

    [columns]
    age = { kind = "number", lower = 17, upper = 90, outside = "clip" }
    ward = { kind = "category", values = ["north", "south"], missing = "indicator" }
    admitted = { kind = "date", format = "%Y-%m-%d", lower = 2020-01-01, upper = 2025-12-31 }
    outcome = { kind = "target", values = ["well", "ill"] }
"""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fedtrain.config.loading import explain, nearest
from fedtrain.config.toml import parse_toml
from fedtrain.crypto.canonical import canonical
from fedtrain.data.types import ClassTarget, NumberTarget, Target
from fedtrain.errors import DataError

MAX_CATEGORIES = 1000
"""More values are no categories, but text or an identifier."""

DRAFTED = "look at this: it came from the data"
"""The comment on each line of a draft whose bounds or categories came from the data."""

LAST_MOMENT = 1 - 1e-9
"""The end of a day, as a fraction of it: what is later counts as this, so that it is no part of the next day."""

_DIRECTIVES = frozenset("YmdHMSfjy%")

Missing = Literal["refuse", "indicator"]
Strings = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    """A part of a schema file: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Column(_Strict):
    """What all columns have."""

    decisive: ClassVar[bool] = True
    """Whether features or the target depend on it."""

    def feature_names(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - most columns that are no features
        """Return the names of the features that it becomes."""
        return ()


class _Bounded(_Column):
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


class CategoryColumn(_Column):
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


class BooleanColumn(_Column):
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


class TargetColumn(_Column):
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


class OwnerColumn(_Column):
    """Names the owner of a record, for a natural partition (``data.partition.column``), and is no feature."""

    decisive = False
    kind: Literal["owner"]


class IgnoredColumn(_Column):
    """Is passed over; a file need not have it."""

    decisive = False
    kind: Literal["ignore"]


Column = NumberColumn | DateColumn | CategoryColumn | BooleanColumn | TargetColumn | OwnerColumn | IgnoredColumn
_KINDS: dict[str, type[_Column]] = {
    "number": NumberColumn,
    "category": CategoryColumn,
    "boolean": BooleanColumn,
    "date": DateColumn,
    "target": TargetColumn,
    "owner": OwnerColumn,
    "ignore": IgnoredColumn,
}


class CsvFormat(_Strict):
    """How CSV files are written. It changes no meaning, so that each site may have its own.

    ``decimal`` and ``missing`` hold for text in Parquet files too.

    Attributes:
        delimiter: between two values.
        quote: around a value that holds a delimiter or a line break; twice within one for itself. Empty: there is none.
        decimal: between the whole and the fraction of a number.
        missing: the words for a missing value, after spaces around are gone.
        header: whether the first row has the names of the columns. Without it, the columns are all those of the schema,
            in its order.
        comment: lines at the beginning of a file that begin with it are passed over; empty: there are none.
    """

    delimiter: str = ","
    quote: str = '"'
    decimal: Literal[".", ","] = "."
    missing: Strings = ("",)
    header: bool = True
    comment: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, letter in (("delimiter", self.delimiter), ("quote", self.quote)):
            if len(letter) != 1 and (field, letter) != ("quote", ""):
                raise ValueError(f"{field} = {letter!r} is not one character")
            if letter in "\r\n" and letter:
                raise ValueError(f"{field} is a line break")
            if letter and not letter.isascii():
                raise ValueError(f"{field} = {letter!r} is not an ASCII character")
            if letter.isalnum() or letter == "\0":
                raise ValueError(f"{field} = {letter!r} is a letter, a digit or nothing that is written")
        if self.quote.isspace():
            raise ValueError("quote is a space, and spaces around values are removed")
        if self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote are both {self.quote!r}")
        return self


class TableSchema(_Strict):
    """A schema file.

    Attributes:
        scale: what the bounds of numbers, dates and booleans become.
        csv: how CSV files are written.
        columns: what each column means, by name; features are in this order.
    """

    scale: Literal["-1 to 1", "0 to 1"] = "-1 to 1"
    csv: CsvFormat = Field(default_factory=CsvFormat)
    columns: dict[str, Column]

    @property
    def range(self) -> tuple[float, float]:
        """What the bounds become."""
        return (-1.0 if self.scale == "-1 to 1" else 0.0, 1.0)

    @property
    def target_column(self) -> tuple[str, TargetColumn]:
        """The column of the target, with its name."""
        return next((name, each) for name, each in self.columns.items() if isinstance(each, TargetColumn))

    @property
    def target(self) -> Target:
        """What is predicted."""
        values = self.target_column[1].values
        return NumberTarget() if values is None else ClassTarget(names=values)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in their order."""
        return tuple(feature for name, column in self.columns.items() for feature in column.feature_names(name))

    @property
    def digest(self) -> str:
        """SHA-256 of all that features and targets depend on, in hexadecimal.

        How files are written, and which columns are passed over, is left out.
        """
        decisive = [[name, column.model_dump(mode="json")] for name, column in self.columns.items() if column.decisive]
        return sha256(canonical({"scale": self.scale, "columns": decisive})).hexdigest()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        targets = [name for name, column in self.columns.items() if isinstance(column, TargetColumn)]
        if len(targets) != 1:
            raise ValueError(f'columns has {len(targets)} of kind = "target"; it needs exactly one')
        if not self.features:
            raise ValueError("columns has no feature: no number, category, boolean or date")
        if twice := [name for name, count in Counter(self.features).items() if count > 1]:
            raise ValueError(f"columns gives two features the name {twice[0]!r}; rename a column or a category")
        for name, column in self.columns.items():
            if name != name.strip() or (not name and not isinstance(column, IgnoredColumn)):
                raise ValueError(f"columns has {name!r}, which is empty or has a space at an end")
            values = getattr(column, "values", None) or ()
            if both := set(self.csv.missing) & {*values, *getattr(column, "aliases", ())}:
                raise ValueError(f"columns.{name} has the value {min(both)!r}, which csv.missing says is a missing one")
        return self


def read_schema(path: Path) -> TableSchema:
    """Read a schema file.

    Raises:
        DataError: it cannot be read, is not TOML, or has something that is missing, unknown or not allowed; it says
            where, what is allowed, and where it can, what is meant.
    """
    try:
        tree = parse_toml(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the schema file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"the schema file {path} is not TOML: {error}") from error
    try:
        return schema_of(tree)
    except ValueError as error:
        text = explain(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"the schema file {path} cannot be used:\n{text}") from error


def drafted_lines(path: Path) -> int:
    """Return how many lines of a schema file are still marked as drafted from data.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes().count(DRAFTED.encode())
    except OSError as error:
        raise DataError(f"cannot read the schema file {path}: {error.strerror or error}") from error


def schema_of(tree: Mapping[str, Any]) -> TableSchema:
    """Return the schema that the content of a file describes.

    Raises:
        ValueError: something is missing, unknown or not allowed.
    """
    columns = tree.get("columns")
    if not isinstance(columns, dict):
        raise ValueError("there is no section [columns], which says what each column means")  # noqa: TRY004
    return TableSchema.model_validate(
        {**tree, "columns": {name: _column(name, each) for name, each in columns.items()}}
    )


def _column(name: str, fields: object) -> _Column:
    if not isinstance(fields, dict):
        raise ValueError(f'columns.{name} = {fields!r}; write it as {{ kind = "ignore" }}, for example')  # noqa: TRY004
    kind = fields.get("kind")
    if kind not in _KINDS:
        allowed = ", ".join(f'"{each}"' for each in _KINDS)
        hint = nearest(kind, _KINDS).partition("; known")[0] if isinstance(kind, str) else ""
        raise ValueError(f"columns.{name}: kind = {kind!r} is not known{hint}; allowed: {allowed}")
    try:
        return _KINDS[kind].model_validate(fields)
    except ValidationError as error:
        raise ValueError("\n".join(f"columns.{name}: {line}" for line in explain(error).splitlines())) from error


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
