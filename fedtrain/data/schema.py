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

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from fedtrain.config.loading import explain, nearest
from fedtrain.config.toml import parse_toml
from fedtrain.crypto.canonical import canonical
from fedtrain.data.schema_columns import COLUMN_KINDS, AnyColumn, Column, IgnoredColumn, Strict, Strings, TargetColumn
from fedtrain.data.types import ClassTarget, NumberTarget, Target
from fedtrain.errors import DataError

DRAFTED = "look at this: it came from the data"
"""The comment on each line of a draft whose bounds or categories came from the data."""


class CsvFormat(Strict):
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


class TableSchema(Strict):
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


def _column(name: str, fields: object) -> AnyColumn:
    if not isinstance(fields, dict):
        raise ValueError(f'columns.{name} = {fields!r}; write it as {{ kind = "ignore" }}, for example')  # noqa: TRY004
    kind = fields.get("kind")
    if kind not in COLUMN_KINDS:
        allowed = ", ".join(f'"{each}"' for each in COLUMN_KINDS)
        hint = nearest(kind, COLUMN_KINDS).partition("; known")[0] if isinstance(kind, str) else ""
        raise ValueError(f"columns.{name}: kind = {kind!r} is not known{hint}; allowed: {allowed}")
    try:
        return COLUMN_KINDS[kind].model_validate(fields)
    except ValidationError as error:
        raise ValueError("\n".join(f"columns.{name}: {line}" for line in explain(error).splitlines())) from error
