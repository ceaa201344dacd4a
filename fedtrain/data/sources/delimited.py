"""CSV files, read as text by pyarrow and converted by a schema file: no type is inferred.

pyarrow takes a quote that is never closed for one value to the end of the file, and says nothing. So a file with quotes
is also read once by Python's own reader, which is slower and strict.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from fedtrain.config import Data
from fedtrain.data.schema import CsvFormat, TableSchema
from fedtrain.data.sources.base import Decoded
from fedtrain.data.sources.columns import some
from fedtrain.data.sources.kinds import files_of
from fedtrain.data.sources.tables import decode_by_schema
from fedtrain.data.sources.values import Table, without_missing
from fedtrain.errors import DataError

_LINE_BREAK: Final = re.compile(rb"\r\n|\r|\n")
_OTHER_ENCODINGS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SHOWN: Final = 80
_DELIMITERS: Final = (",", ";", "\t", "|")
_BLOCK: Final = 1 << 26
"""Bytes that pyarrow parses together. By default it is 1 MiB, and texts are longer.

A row of so many bytes is always read, one of twice as many never; between the two it depends on where the row begins.
"""


def decode_csv(data: Data) -> Decoded:
    """Read training files, and test files where ``test_path`` is set.

    Raises:
        DataError: as `fedtrain.data.sources.tables.decode_by_schema`.
    """

    def read(file: Path, schema: TableSchema) -> Table:
        return read_delimited(file, schema.csv, names=None if schema.csv.header else tuple(schema.columns))

    return decode_by_schema(data, partial(files_of, suffix=".csv"), read)


def read_delimited(
    file: Path, form: CsvFormat, *, names: Sequence[str] | None, texts: Collection[str] = (), by_schema: bool = True
) -> Table:
    """Read a CSV file as text, spaces around each value and each name removed.

    Args:
        file: the file.
        form: how it is written.
        names: the names of its columns; ``None`` if its first row has them, none at all to number them.
        texts: the columns whose values stay as they are: with their spaces, and none of them missing.
        by_schema: whether a schema file says how it is written, where a person can change that.

    Raises:
        DataError: the file cannot be read, is empty, is not UTF-8, or has a row of another length, a quote that is not
            closed, or two columns of one name. It says in which line.
    """
    data, passed = _content(file, form)
    refused: list[Any] = []

    def refuse(row: Any) -> str:
        refused.append(row)
        return "error"

    try:
        read = arrow_csv.read_csv(
            pa.BufferReader(data),
            # In one thread, so that rows have numbers.
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK,
                column_names=names or None,
                autogenerate_column_names=names is not None and not names,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=form.delimiter,
                quote_char=form.quote or False,
                newlines_in_values=True,
                invalid_row_handler=refuse,
            ),
            convert_options=arrow_csv.ConvertOptions(
                default_column_type=pa.large_string(), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid as error:
        _require_closed_quotes(file, data, form, passed)
        if not refused:
            raise DataError(f"{file}: cannot be read as CSV: {error}") from error
        row = refused[0]
        line = _line(data, form, row.number - 1) + passed
        raise DataError(
            f"{file}, line {line}: {row.actual_columns} values, and {row.expected_columns} are expected: "
            f"{row.text[:_SHOWN]!r}; a value that holds {form.delimiter!r} is to be in quotes"
            f"{_also(form, by_schema=by_schema)}"
        ) from error
    _require_closed_quotes(file, data, form, passed)
    found = [name.strip() for name in read.column_names]
    _require_delimiter(file, found, form, by_schema=by_schema)
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise DataError(
            f"{file}: more than one column is named {some([repr(name) for name in twice])}, and a name cannot tell "
            "which is meant; give each column a name of its own"
        )

    starts: list[int] = []

    def place(row: int) -> str:
        if not starts:
            starts.extend(start for start, _ in _rows(data, form))
        return f"{file}, line {starts[min(row + (names is None), len(starts) - 1)] + passed}"

    columns = {
        name: values if name in texts else _trimmed(values, name, form, place)
        for name, values in zip(found, read.columns, strict=True)
    }
    return Table(
        columns=columns, rows=read.num_rows, name=str(file), place=place, decimal=form.decimal, by_schema=by_schema
    )


def _require_delimiter(file: Path, names: Sequence[str], form: CsvFormat, *, by_schema: bool) -> None:
    """Refuse a file of one column whose name has another delimiter in it.

    Raises:
        DataError: it has.
    """
    other = next((sign for sign in _DELIMITERS if sign != form.delimiter and sign in names[0]), None)
    if len(names) > 1 or other is None:
        return
    remedy = f"write the file with {form.delimiter!r}"
    if by_schema:
        remedy = f"say so: delimiter = {other!r} in [csv] of the schema file, --delimiter of a command"
    raise DataError(
        f"{file}: with {form.delimiter!r} between values it has one column, {names[0][:_SHOWN]!r}; if {other!r} is "
        f"between them, {remedy}"
    )


def _also(form: CsvFormat, *, by_schema: bool) -> str:
    if not by_schema:
        return ""
    return f", and delimiter = {form.delimiter!r} in [csv] of the schema file is to be that of the file"


def _content(file: Path, form: CsvFormat) -> tuple[bytes, int]:
    """Return the content of a file from its first row on, and how many lines of comments are before it.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has no row.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    if data.startswith(_OTHER_ENCODINGS):
        raise DataError(f"{file} is in UTF-16; save it as UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = len(_LINE_BREAK.findall(data, 0, error.start)) + 1
        raise DataError(
            f"{file}, line {line} has a byte that is not UTF-8 (0x{data[error.start]:02x}); save it as UTF-8"
        ) from error
    data, passed = data.removeprefix(codecs.BOM_UTF8), 0
    while form.comment and data.startswith(form.comment.encode()):
        data, passed = (*_LINE_BREAK.split(data, maxsplit=1), b"")[1], passed + 1
    if not data.strip():
        raise DataError(f"{file} is empty: it has neither a row with the names of columns nor a record")
    # Without a line break at its end, a row of names alone is no row for pyarrow.
    return data if data.endswith((b"\n", b"\r")) else data + b"\n", passed


def _trimmed(values: Any, column: str, form: CsvFormat, place: Any) -> Any:
    """Return the values without spaces around, those that stand for missing ones as null.

    Raises:
        DataError: a value has a space before its quote, which is then no quote.
    """
    if form.quote:
        quoted = pc.match_substring_regex(values, rf"^\s+\{form.quote}")
        if (row := pc.index(quoted, value=True).as_py()) >= 0:
            raise DataError(
                f"{place(row)}, column {column!r}: there is a space before the quote, which then is none; write the "
                "quote directly after the delimiter"
            )
    return without_missing(values, form.missing)


def _require_closed_quotes(file: Path, data: bytes, form: CsvFormat, passed: int) -> None:
    """Refuse a quote that is not closed, or not before a delimiter: all until the next quote would be one value.

    Raises:
        DataError: there is one; it says in which line it opens.
    """
    if not form.quote or form.quote.encode() not in data:
        return
    line = 0
    try:
        for line, _ in _rows(data, form, strict=True):  # noqa: B007 - the last one is looked at
            pass
    except csv.Error as error:
        raise DataError(
            f"{file}, line {_after(data, form, line) + passed}: a quote ({form.quote}) is not closed, or text follows "
            f"the closing one: {error}; a quote within a value is to be written twice"
        ) from error


def _after(data: bytes, form: CsvFormat, line: int) -> int:
    """Return the line in which the first row after another one begins."""
    return next((start for start, _ in _rows(data, form) if start > line), 1)


def _line(data: bytes, form: CsvFormat, row: int) -> int:
    """Return the line, from 1, in which a row begins; rows are counted from 0, that of the names included."""
    starts = (start for start, _ in _rows(data, form))
    return next((start for number, start in enumerate(starts) if number == row), 1)


def _rows(data: bytes, form: CsvFormat, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Give each row that is not empty, with the line in which it begins.

    Raises:
        csv.Error: a quote is not closed, where the reader is strict.
    """
    quotes = {"quotechar": form.quote} if form.quote else {"quoting": csv.QUOTE_NONE}
    csv.field_size_limit(max(csv.field_size_limit(), len(data)))  # longer values are another reader's matter
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    reader = csv.reader(text, delimiter=form.delimiter, strict=strict, **quotes)
    before = 0
    for row in reader:
        if row:
            yield before + 1, row
        before = reader.line_num
