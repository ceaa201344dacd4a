"""Tables decoded by a schema file: a value becomes features by what that says of its column, and by nothing else.

Values are text, as those of CSV files, or of a type of Arrow, as those of Parquet files. Either way a value that does
not fit its column is refused, with the file, the place and the column.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.config.loading import nearest
from fedtrain.data.schema import (
    LAST_MOMENT,
    BooleanColumn,
    CategoryColumn,
    Column,
    DateColumn,
    IgnoredColumn,
    NumberColumn,
    OwnerColumn,
    TableSchema,
    TargetColumn,
    read_schema,
)
from fedtrain.data.sources.base import Decoded, Place, path_of, require_records
from fedtrain.data.sources.columns import Coded, coded, require_values, some, without_negative_zero
from fedtrain.data.sources.plain import is_numeric, named
from fedtrain.data.types import Columns, DataInfo, RuleCounts, Split
from fedtrain.errors import DataError
from fedtrain.progress import working

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DAY: Final = 86_400
_OF_SECOND: Final = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_MEANING: Final = {
    **dict.fromkeys(("true", "yes", "y", "t", "1"), 1.0),
    **dict.fromkeys(("false", "no", "n", "f", "0"), 0.0),
}
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def number_pattern(decimal: str) -> str:
    """Return the regular expression of a number that is text."""
    return _NUMBER if decimal == "." else _NUMBER.replace(r"\.", ",")


def without_missing(values: Any, words: Sequence[str]) -> Any:
    """Return text without spaces around, and as null what stands for a missing value."""
    trimmed = pc.utf8_trim_whitespace(values)
    missing = pc.is_in(trimmed, value_set=pa.array(words, pa.large_string()))
    return pc.if_else(missing, pa.scalar(None, pa.large_string()), trimmed)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file of a table.

    Attributes:
        columns: a ``pyarrow.ChunkedArray`` for each column that the file has, of a plain type; a missing value is null.
        rows: how many records there are.
        name: the file.
        place: names a record.
        decimal: between the whole and the fraction of a number that is text.
    """

    columns: Mapping[str, Any]
    rows: int
    name: str
    place: Place
    decimal: str = "."


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    features: NDArray[np.float32]
    targets: NDArray[Any]
    owners: Any
    rules: Mapping[str, Counter[str]]


def open_schema(data: Data) -> TableSchema:
    """Read the schema file that an experiment or a site names, and hold it against what else that says.

    Raises:
        DataError: it cannot be used, has another target or digest, or no owner where records are split by one.
    """
    assert data.schema_file is not None
    path = path_of(data.schema_file)
    schema = read_schema(path)
    if schema.target.kind != data.target:
        raise DataError(
            f'data.target = "{data.target}", and the target of the schema file {path} is a {schema.target.kind}; set '
            f'data.target = "{schema.target.kind}"'
        )
    if data.schema_digest is not None and data.schema_digest != schema.digest:
        raise DataError(
            f"the schema file {path} has the digest {schema.digest}, and data.schema_digest is {data.schema_digest}: "
            "it is not the schema that was agreed on. Get that file, or, if this one is meant, let all sites have it"
        )
    owner = data.partition.column
    if owner is not None and not isinstance(schema.columns.get(owner), OwnerColumn):
        owners = [name for name, column in schema.columns.items() if isinstance(column, OwnerColumn)]
        raise DataError(
            f'partition.column = {owner!r} is no column of kind = "owner" in the schema file {path}'
            f"{nearest(owner, owners) if owners else '; it has none'}"
        )
    return schema


def decode_by_schema(
    data: Data, files: Callable[[str], Sequence[Path]], read: Callable[[Path, TableSchema], Table]
) -> Decoded:
    """Read training files, and test files where ``test_path`` is set, by the schema.

    Args:
        data: where the records come from.
        files: returns the files that a path names.
        read: reads one of them.

    Raises:
        DataError: a file or the schema is missing or malformed, the two sets overlap, or a value does not fit.
    """
    assert data.path is not None  # Data is validated
    schema = open_schema(data)
    train, test = files(data.path), files(data.test_path) if data.test_path else ()
    shared = {file.resolve() for file in train} & {file.resolve() for file in test}
    if shared:
        raise DataError(f"{min(shared)} is both training and test data; give path and test_path different files")

    def encoded(part: Sequence[Path], owner: str | None) -> list[_Encoded]:
        found = []
        with working("decoding tables", len(part)) as done:
            for number, file in enumerate(part, start=1):
                table = read(file, schema)
                require_columns(table, schema, owner)
                require_records(table.rows, table.name)
                found.append(_encode(table, schema, owner))
                done(number)
        return found

    owner = data.partition.column
    parts = encoded(train, owner)
    owners = _owners(parts, owner) if owner else None
    return Decoded(
        info=DataInfo(
            features=Columns(shape=(len(schema.features),), names=schema.features, schema=schema.digest),
            target=schema.target,
        ),
        train=_together(parts, owners),
        test=_together(encoded(test, None), None) if test else None,
        owners=tuple(map(str, owners.categories())) if owners else (),
        rules=_counted(parts, schema),
    )


def _counted(parts: Sequence[_Encoded], schema: TableSchema) -> tuple[RuleCounts, ...]:
    """Return how often rules were needed, of the columns where they were."""
    totals = {name: sum((part.rules.get(name, Counter()) for part in parts), Counter()) for name in schema.columns}
    return tuple(RuleCounts(column=name, **total) for name, total in totals.items() if total)


def require_columns(table: Table, schema: TableSchema, owner: str | None) -> None:
    """Refuse a table that lacks a column of the schema, or has one that the schema does not know.

    Raises:
        DataError: names the file and the column.
    """
    optional = {
        name
        for name, column in schema.columns.items()
        if isinstance(column, IgnoredColumn) or (isinstance(column, OwnerColumn) and name != owner)
    }
    missing = [name for name in schema.columns if name not in table.columns and name not in optional]
    unknown = [name for name in table.columns if name not in schema.columns]
    if missing:
        also = f"; it has {some([repr(name) for name in unknown])}, which the schema does not know" if unknown else ""
        raise DataError(f"{table.name}: there is no column {missing[0]!r}, which is in the schema file{also}")
    if unknown:
        raise DataError(
            f"{table.name}: the column {unknown[0]!r} is not in the schema file"
            f"{nearest(unknown[0], schema.columns) if unknown[0] else ', and has no name'}; "
            f'to pass it over, add {json.dumps(unknown[0], ensure_ascii=False)} = {{ kind = "ignore" }} to [columns]'
        )


def features_by_schema(table: Table, schema: TableSchema) -> NDArray[np.float32]:
    """Return the features of a table, shape (n, features), as training records have them.

    Targets are not looked at. Columns that the schema does not know are passed over.

    Raises:
        DataError: a column of a feature is missing, the table holds no records, or a value does not fit.
    """
    wanted = {
        name: column
        for name, column in schema.columns.items()
        if column.decisive and not isinstance(column, TargetColumn)
    }
    if missing := [name for name in wanted if name not in table.columns]:
        raise DataError(
            f"{table.name} has no column {some([repr(name) for name in missing])}, which the model takes; it has: "
            f"{some([repr(name) for name in table.columns])}"
        )
    require_records(table.rows, table.name)
    return _encode(table, schema, None, columns=wanted).features


def _owners(parts: Sequence[_Encoded], column: str) -> Coded:
    chunks = [chunk for part in parts for chunk in part.owners.chunks]
    return coded(pa.chunked_array(chunks, type=pa.large_string()), column=column, place=str)


def _together(parts: Sequence[_Encoded], owners: Coded | None) -> Split:
    return Split(
        features=np.concatenate([part.features for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        owners=owners.encode(owners.categories(), what="owner", place=str) if owners else None,
    )


def _encode(
    table: Table, schema: TableSchema, owner: str | None, *, columns: Mapping[str, Column] | None = None
) -> _Encoded:
    """Decode some columns of the schema, or all of them."""
    features = np.zeros((table.rows, len(schema.features)), dtype=np.float32)
    targets: NDArray[Any] = np.zeros(0)
    low, high = schema.range
    rules: dict[str, Counter[str]] = {}
    start = 0
    for name, column in (schema.columns if columns is None else columns).items():
        if not column.decisive:
            continue
        value = _Values(table=table, column=name, counts=rules.setdefault(name, Counter()))
        width = len(column.feature_names(name))
        out = features[:, start : start + width]
        start += width
        match column:
            case NumberColumn():
                _fill(out, *_scaled(value, value.numbers(), column, low, high), low, high)
            case DateColumn():
                _fill(out, *_scaled(value, value.days(column.format), column, low, high), low, high)
            case BooleanColumn():
                booleans, absent = value.booleans()
                value.require(absent, column.missing)
                _fill(out, low + (high - low) * np.where(absent, 0.5, booleans), absent, low, high)
            case CategoryColumn():
                codes = value.categories(column.values, column.aliases, other=column.unseen == "other")
                value.require(codes == _ABSENT, column.missing)
                value.count("unseen", codes == len(column.values))
                out[np.arange(table.rows), np.where(codes == _ABSENT, width - 1, codes)] = 1
            case TargetColumn():
                targets = _targets(value, column, low, high)
    owners = None
    if owner is not None:
        owners = _Values(table=table, column=owner, counts=Counter()).text()
        require_values(owners, column=owner, place=table.place)
    return _Encoded(features=features, targets=targets, owners=owners, rules=rules)


def _targets(value: "_Values", column: TargetColumn, low: float, high: float) -> NDArray[Any]:
    if column.values is not None:
        codes = value.categories(column.values, column.aliases, other=False)
        value.require(codes == _ABSENT, "refuse")
        return codes
    assert column.number is not None  # the schema is validated
    scaled, _ = _scaled(value, value.numbers(), column.number, low, high)
    return without_negative_zero(scaled.astype(np.float32))


def _fill(out: NDArray[np.float32], values: Numbers, absent: Mask, low: float, high: float) -> None:
    """Write a value, and where there is room for one an indicator that it is missing."""
    out[:, 0] = without_negative_zero(np.clip(values, low, high).astype(np.float32))
    if out.shape[1] > 1:
        out[:, 1] = absent


def _scaled(
    value: "_Values", found: tuple[Numbers, Mask], column: NumberColumn | DateColumn, low: float, high: float
) -> tuple[Numbers, Mask]:
    """Return numbers scaled by public bounds, those outside by the rule of the column, and which are missing.

    Raises:
        DataError: one is missing or outside, and is to be refused.
    """
    numbers, absent = found
    value.require(absent, column.missing)
    lower, upper = column.bounds
    numbers = np.where(absent, column.stand_in, numbers)
    outside = (numbers < lower) | (numbers > upper)
    value.count("clipped", outside)
    if column.outside == "refuse" and outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{value.place(row)}: {value.shown(row)} is outside of lower = {column.lower} and upper = {column.upper} "
            'in the schema file; correct it, or set outside = "clip", by which it counts as the nearer bound'
        )
    return low + (high - low) * (np.clip(numbers, lower, upper) - lower) / (upper - lower), absent


_ABSENT: Final = -1


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The values of a column of a file, and how often rules were needed for them."""

    table: Table
    column: str
    counts: Counter[str]

    @property
    def _held(self) -> Any:
        return self.table.columns[self.column]

    def place(self, row: int) -> str:
        """Name the file, the record and the column."""
        return f"{self.table.place(row)}, column {self.column!r}"

    def shown(self, row: int) -> str:
        """Return a value as a person recognises it."""
        held = self._held[row]
        try:
            text = str(held.as_py())
        except (OverflowError, ValueError):  # a time that Python has no type for
            text = f"{held.value} {held.type.unit} after 1970"
        return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")

    def count(self, what: str, where: Mask) -> None:
        """Note how many values a rule was needed for."""
        self.counts[what] += int(where.sum())

    def require(self, absent: Mask, rule: str) -> None:
        """Refuse missing values where that is the rule, and count them.

        Raises:
            DataError: there is one.
        """
        if rule == "refuse" and absent.any():
            row = int(np.flatnonzero(absent)[0])
            raise DataError(
                f'{self.place(row)}: the value is missing; with missing = "indicator" in the schema file a missing '
                "value of a feature is allowed"
            )
        self.count("missing", absent)

    def text(self) -> Any:
        """Return the values as strings.

        Raises:
            DataError: they are lists, bytes or the like, or numbers that are not whole.
        """
        values = self._held
        kind = values.type
        if pa.types.is_dictionary(kind):
            values, kind = values.cast(kind.value_type), kind.value_type
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
            return values.cast(pa.large_string())
        if pa.types.is_large_string(kind):
            return pc.utf8_trim_whitespace(values)
        if pa.types.is_null(kind):
            return values.cast(pa.large_string())
        raise DataError(
            f"{self.table.name}, column {self.column!r} has type {named(kind)}; a category, a class or an owner is a "
            "string, a whole number or a boolean"
        )

    def numbers(self) -> tuple[Numbers, Mask]:
        """Return the values as numbers, and which are missing.

        Raises:
            DataError: one is no number.
        """
        values = self._held
        if is_numeric(values.type):
            found = values.cast(pa.float64(), safe=False)
            if (bad := np.flatnonzero(~np.isfinite(_filled(found, 0.0)))).size:
                row = int(bad[0])
                what = "NaN" if np.isnan(found[row].as_py()) else "an infinite value"
                raise DataError(f"{self.place(row)}: {what} is no number; write a missing value as null")
        else:
            text = self.text()
            pattern = number_pattern(self.table.decimal)
            if (row := pc.index(pc.match_substring_regex(text, pattern), value=False).as_py()) >= 0:
                raise DataError(f"{self.place(row)}: {self.shown(row)} is no number{self._hint(row)}")
            if self.table.decimal == ",":
                text = pc.replace_substring(text, ",", ".")
            found = text.cast(pa.float64())
        return _filled(found, 0.0), _absent(found)

    def _hint(self, row: int) -> str:
        text, decimal = str(self._held[row].as_py()), self.table.decimal
        other = "," if decimal == "." else "."
        if other in text:
            return f'; with decimal = "{decimal}" in [csv] of the schema file it would have to be written otherwise'
        return "; if it stands for a missing value, add it to missing in [csv] of the schema file"

    def days(self, form: str) -> tuple[Numbers, Mask]:
        """Return the values, dates, as days since the first of year 1, and which are missing.

        A time with a time zone counts as that of UTC.

        Raises:
            DataError: one is no date of that format.
        """
        values = self._held
        if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
            epoch = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001 - a day of the calendar
            if pa.types.is_date32(values.type):
                whole, of_day = values.cast(pa.int32()), 1
            else:
                resolution = "ms" if pa.types.is_date64(values.type) else values.type.unit
                whole, of_day = values.cast(pa.int64()), _DAY * _OF_SECOND[resolution]
            days, rest = np.divmod(pc.fill_null(whole, 0).to_numpy().astype(np.int64), of_day)
            return epoch + days + np.minimum(rest / of_day, LAST_MOMENT), _absent(values)
        return self._mapped(partial(_day, form=form), f"is no date of the format {form!r}")

    def booleans(self) -> tuple[Numbers, Mask]:
        """Return the values, yes or no, as 1 or 0, and which are missing.

        Raises:
            DataError: one is neither.
        """
        words = "true or false, yes or no, y or n, t or f, 1 or 0"
        return self._mapped(lambda text: _MEANING.get(text.lower()), f"is none of {words}")

    def _mapped(self, meaning: Callable[[str], float | None], otherwise: str) -> tuple[Numbers, Mask]:
        """Return what each different value means.

        Raises:
            DataError: one means nothing.
        """
        found = self.text().combine_chunks().dictionary_encode()
        codes = _codes(found)
        meanings = [meaning(text) for text in found.dictionary.to_pylist()]
        if None in meanings:
            row = int(np.flatnonzero(codes == meanings.index(None))[0])
            raise DataError(f"{self.place(row)}: {self.shown(row)} {otherwise}")
        # The last stands for missing values, whose code is -1.
        return np.array([*meanings, 0.0], dtype=np.float64)[codes], codes == _ABSENT

    def categories(self, values: Sequence[str], aliases: Mapping[str, str], *, other: bool) -> NDArray[np.int64]:
        """Return each record's index into the categories, or one beyond them for any other value; -1 if it is missing.

        Raises:
            DataError: a value is none of them, and no other is allowed.
        """
        index = {value: place for place, value in enumerate(values)}
        index |= {alias: index[value] for alias, value in aliases.items()}
        found = self.text().combine_chunks().dictionary_encode()
        codes = _codes(found)
        numbers = [index.get(text, len(values)) for text in found.dictionary.to_pylist()]
        if not other and len(values) in numbers:
            row = int(np.flatnonzero(codes == numbers.index(len(values)))[0])
            raise DataError(
                f"{self.place(row)}: {self.shown(row)} is none of the {len(values)} values in the schema file: "
                f"{some([repr(value) for value in values])}"
            )
        return np.array([*numbers, _ABSENT], dtype=np.int64)[codes]


_SHOWN: Final = 60


def _day(text: str, *, form: str) -> float | None:
    try:
        found = datetime.strptime(text, form)  # noqa: DTZ007 - a day of the calendar
    except ValueError:
        return None
    passed = (found - datetime.combine(found, datetime.min.time())).total_seconds() / _DAY
    return found.toordinal() + min(passed, LAST_MOMENT)


def _codes(encoded: Any) -> NDArray[np.int64]:
    """Return the codes of a dictionary, -1 where a value is missing."""
    codes: NDArray[np.int64] = pc.fill_null(encoded.indices, _ABSENT).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _filled(values: Any, constant: float) -> Numbers:
    filled: Numbers = pc.fill_null(values, constant).to_numpy().astype(np.float64)
    return filled


def _absent(values: Any) -> Mask:
    absent: Mask = values.is_null().to_numpy(zero_copy_only=False)
    return absent
