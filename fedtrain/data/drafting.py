"""A first schema file of a table, from what one file holds, for a person to edit.

Bounds and categories that were found in private records are not public: a schema that keeps them tells everyone of the
records. So each is marked, and bounds are rounded outward.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedtrain.data.schema import DRAFTED, CsvFormat
from fedtrain.data.sources.columns import names_records, numbers_records
from fedtrain.data.sources.delimited import read_delimited
from fedtrain.data.sources.parquet import read_table
from fedtrain.data.sources.plain import is_numeric
from fedtrain.data.sources.values import number_pattern
from fedtrain.errors import DataError

MISSING_WORDS = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-")
"""Words that are taken for a missing value where a file has them."""

_LARGE = 1e300  # a number beyond it is a word
_CATEGORIES = 50  # more different words are text, or name something
_NO_FEATURE = "it names or numbers records, or has too many different values for a category"
_CLASSES = 20  # a target of more different whole numbers is a number
_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d", "%d.%m.%Y")
_BOOLEANS = ({"true", "false"}, {"yes", "no"}, {"y", "n"}, {"t", "f"}, {"0", "1"})
_HEAD = """\
# Drafted from {name}: edit it before you use it.
# Bounds and categories below came from the data. If the data is private, they are not public: put what everybody may
# know in their place, such as 0 to 120 for an age.
"""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A schema file to edit.

    Attributes:
        text: its content.
        found: the columns whose bounds or categories came from the data.
        passed_over: the columns of which no feature could be made.
    """

    text: str
    found: tuple[str, ...]
    passed_over: tuple[str, ...]


def draft_schema(file: Path, *, target: str, form: CsvFormat) -> Draft:
    """Draft the schema of a CSV or a Parquet file.

    Args:
        file: the file. One whose name ends in ``.parquet`` is Parquet, any other CSV.
        target: the column that is predicted; without a header ``f0``, ``f1`` and so on.
        form: how a CSV file is written. Its words for missing values are looked for in the file.

    Raises:
        DataError: the file cannot be read, or has no record or no such column, or the target is neither a number nor
            one of a few classes.
    """
    parquet = file.suffix == ".parquet"
    plain = form.model_copy(update={"missing": ()})
    table = read_table(file, (), plain) if parquet else read_delimited(file, plain, names=None if form.header else ())
    if target not in table.columns:
        raise DataError(f"{file}: there is no column {target!r} to predict; its columns are {', '.join(table.columns)}")
    if table.rows == 0:
        raise DataError(f"{file} holds no records")
    lines, words, found, passed_over = [], set[str](), [], []
    for name, held in table.columns.items():
        if not name:
            passed_over.append("a column without a name")
            lines.append('"" = { kind = "ignore" }  # it has no name')
            continue
        values, missing = _without_missing(held)
        words |= missing
        parts = _described(values, is_target=name == target, decimal=form.decimal)
        if parts is None:
            if name == target:
                raise DataError(f"{file}, column {name!r}: it is neither a number nor one of a few classes")
            passed_over.append(name)
            lines.append(f'{_key(name)} = {{ kind = "ignore" }}  # {_NO_FEATURE}')
            continue
        if values.null_count and name != target:
            parts.append('missing = "indicator"')
        comes_from_data = len(parts) > 1
        found += [name] * comes_from_data
        lines.append(f"{_key(name)} = {{ {', '.join(parts)} }}" + f"  # {DRAFTED}" * comes_from_data)
    written = [] if parquet else _csv(form, [word for word in MISSING_WORDS if word in words])
    text = "\n".join([_HEAD.format(name=json.dumps(file.name)), 'scale = "-1 to 1"', "", *written, "[columns]", *lines])
    return Draft(text=f"{text}\n", found=tuple(found), passed_over=tuple(passed_over))


def _without_missing(values: Any) -> tuple[Any, set[str]]:
    """Return strings with null for each word that stands for a missing value, and these words; all else as it is."""
    if not pa.types.is_large_string(values.type):
        return values, set()
    absent = pc.is_in(values, value_set=pa.array(MISSING_WORDS, pa.large_string()))
    words = set(pc.unique(values.filter(absent)).to_pylist())
    return pc.if_else(absent, pa.scalar(None, pa.large_string()), values), words


def _described(values: Any, *, is_target: bool, decimal: str) -> list[str] | None:
    """Return what a schema says of a column, field by field; ``None`` if nothing can be made of it."""
    if pa.types.is_timestamp(values.type):  # Python has no type for nanoseconds
        values = values.cast(pa.timestamp("us", tz=values.type.tz), safe=False)
    kind = values.type
    found = pc.unique(values.drop_null()).to_pylist() if _is_read(kind) else []
    texts = [value.isoformat() if isinstance(value, date) else str(value) for value in found]
    if pa.types.is_boolean(kind):
        texts = [text.lower() for text in texts]
    numbers = _numbers(texts, "." if is_numeric(kind) else decimal)
    return _target(texts, numbers) if is_target else _feature(texts, numbers, records=len(values))


def _is_read(kind: Any) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_large_string, pa.types.is_date, pa.types.is_timestamp)
    return is_numeric(kind) or any(test(kind) for test in tests)


def _target(texts: Sequence[str], numbers: Sequence[float] | None) -> list[str] | None:
    most = _CATEGORIES if numbers is None else _CLASSES
    if 1 < len(texts) <= most and (numbers is None or all(number == int(number) for number in numbers)):
        return ['kind = "target"', f"values = {_strings(sorted(texts, key=_order))}"]
    return None if numbers is None else ['kind = "target"', *_bounds(numbers)]


def _feature(texts: Sequence[str], numbers: Sequence[float] | None, *, records: int) -> list[str] | None:
    if any({text.lower() for text in texts} == words for words in _BOOLEANS):
        return ['kind = "boolean"']
    if numbers is not None:
        counted = numbers_records(min(numbers), max(numbers), len(set(numbers)), records)
        return None if counted else ['kind = "number"', *_bounds(numbers)]
    if (dates := _dates(texts)) is not None:
        return dates
    few = 0 < len(texts) <= _CATEGORIES and not names_records(len(texts), records)
    return ['kind = "category"', f"values = {_strings(sorted(texts))}"] if few else None


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def _numbers(texts: Sequence[str], decimal: str) -> list[float] | None:
    pattern = re.compile(number_pattern(decimal), re.ASCII)
    if not texts or not all(map(pattern.match, texts)):
        return None
    found = [float(text.replace(decimal, ".")) for text in texts]
    return found if all(abs(number) < _LARGE for number in found) else None


def _bounds(numbers: Sequence[float]) -> list[str]:
    """Return bounds, rounded outward to the power of ten below their distance."""
    low, high = min(numbers), max(numbers)
    step = 10.0 ** math.floor(math.log10(high - low)) if high > low else 1.0
    lower, upper = math.floor(low / step) * step, math.ceil(high / step) * step
    upper = upper if upper > lower else lower + step
    return [f"lower = {_written(lower, low, -1)}", f"upper = {_written(upper, high, 1)}"]


def _written(bound: float, extreme: float, direction: int) -> str:
    """Return a bound in 12 digits, or in all where that would leave out the extreme value."""
    short = f"{bound:.12g}"
    return short if (float(short) - extreme) * direction >= 0 else repr(float(bound))


def _dates(texts: Sequence[str]) -> list[str] | None:
    """Return what a schema says of dates in one format, with bounds at the ends of years."""
    for form in _FORMATS:
        try:
            years = [datetime.strptime(text, form).year for text in texts]  # noqa: DTZ007 - a day of the calendar
        except ValueError:
            continue
        if years:
            bounds = [f"lower = {min(years):04d}-01-01", f"upper = {max(years):04d}-12-31"]
            return ['kind = "date"', f"format = {json.dumps(form)}", *bounds]
    return None


def _csv(form: CsvFormat, missing: Sequence[str]) -> list[str]:
    lines = ["[csv]"]
    lines += [f"delimiter = {json.dumps(form.delimiter)}"] if form.delimiter != "," else []
    lines += [f"decimal = {json.dumps(form.decimal)}"] if form.decimal != "." else []
    lines += [] if form.header else ["header = false"]
    return [*lines, f"missing = {_strings(missing or ('',))}", ""]


def _strings(values: Sequence[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else json.dumps(name)
