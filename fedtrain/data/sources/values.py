"""The values of one file of a table, as what a schema says that they are: numbers, days, booleans, categories.

Values are text, as those of CSV files, or of a type of Arrow, as those of Parquet files. Either way a value that does
not fit its column is refused, with the file, the place and the column.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedtrain.data.schema_columns import LAST_MOMENT
from fedtrain.data.sources.base import Place
from fedtrain.data.sources.columns import some
from fedtrain.data.sources.plain import is_numeric, named
from fedtrain.errors import DataError

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
        by_schema: whether a schema file says how the file is written.
    """

    columns: Mapping[str, Any]
    rows: int
    name: str
    place: Place
    decimal: str = "."
    by_schema: bool = True


ABSENT: Final = -1


@dataclass(frozen=True, kw_only=True)
class Values:
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
        if not self.table.by_schema:
            return f"; a number is written with {decimal!r} before its fraction, and without signs between thousands"
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
        return np.array([*meanings, 0.0], dtype=np.float64)[codes], codes == ABSENT

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
        return np.array([*numbers, ABSENT], dtype=np.int64)[codes]


def number_values(table: Table, column: str) -> Any:
    """Return a column of numbers that are text as float64, a ``pyarrow.ChunkedArray``; a missing one is null.

    Raises:
        DataError: one is no number.
    """
    found, absent = Values(table=table, column=column, counts=Counter()).numbers()
    return pa.chunked_array([pa.array(found, pa.float64(), mask=absent)])


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
    codes: NDArray[np.int64] = pc.fill_null(encoded.indices, ABSENT).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _filled(values: Any, constant: float) -> Numbers:
    filled: Numbers = pc.fill_null(values, constant).to_numpy().astype(np.float64)
    return filled


def _absent(values: Any) -> Mask:
    absent: Mask = values.is_null().to_numpy(zero_copy_only=False)
    return absent
