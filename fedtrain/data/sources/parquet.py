"""Parquet files in the column layout of the Hugging Face hub.

Several files are one table, whose columns mean the same in every file. The metadata of the hub names the numbers of a
column: 0 is "cat", 1 is "dog". Each file has names of its own, and the number 0 of one may be the number 1 of another.
Numbers are therefore brought into the order of the first file, and files whose columns cannot be compared are refused.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedtrain.config import Data
from fedtrain.data.schema import CsvFormat
from fedtrain.data.sources.arrow import Records, Roles, decode_tables, file_columns, roles
from fedtrain.data.sources.base import Decoded
from fedtrain.data.sources.columns import some
from fedtrain.data.sources.kinds import files_of
from fedtrain.data.sources.metadata import class_names_of, index_columns
from fedtrain.data.sources.plain import common_type, holds_lists, plain, plain_type, require_utf8, with_items
from fedtrain.data.sources.tables import decode_by_schema
from fedtrain.data.sources.values import Table, without_missing
from fedtrain.errors import DataError
from fedtrain.progress import working


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """What a file says of its columns.

    Attributes:
        schema: the schema.
        class_names: what the numbers of columns mean, where the metadata says it.
        index: the columns of a pandas index.
    """

    schema: Any
    class_names: Mapping[str, tuple[str, ...]]
    index: frozenset[str]

    @cached_property
    def columns(self) -> frozenset[str]:
        """The names of the columns."""
        return frozenset(self.schema.names)

    def kind(self, column: str) -> Any:
        """Return the type of a column."""
        return self.schema.field(column).type


Layouts = Mapping[Path, Layout]


def decode_parquet(data: Data) -> Decoded:
    """Read training files, and test files where ``test_path`` is set.

    Raises:
        DataError: a file is missing or malformed, the two sets overlap or do not match, or columns, what they hold, or
            the names of their classes differ between files.
    """
    assert data.path is not None  # Data is validated
    parquet_files = partial(files_of, suffix=".parquet")
    if data.schema_file is not None:
        return decode_by_schema(data, parquet_files, lambda file, schema: read_table(file, schema.columns, schema.csv))
    train = parquet_files(data.path)
    test = parquet_files(data.test_path) if data.test_path else ()
    shared = {file.resolve() for file in train} & {file.resolve() for file in test}
    if shared:
        raise DataError(f"{min(shared)} is both training and test data; give path and test_path different files")
    layouts = layouts_of((*train, *test))
    index = index_of(layouts)
    role = roles(layouts[train[0]].schema, data, name=str(train[0]), left_out=index)
    wanted = role.columns
    measured = tuple(column for column in wanted if column != role.owner or column in role.labels)
    for files, columns in ((train, wanted), (test, measured)):
        for file in files:
            require_same_columns(file, train[0], layouts, columns, taken_unasked(role, data, index))

    def read(files: Sequence[Path], columns: Sequence[str]) -> Records:
        return _read(files, columns, layouts, role, first=train[0])

    testing = read(test, measured) if test else None
    return decode_tables(read(train, wanted), testing, role, class_names=data.class_names)


def read_table(file: Path, known: Collection[str], form: CsvFormat) -> Table:
    """Read a file as a schema needs it: plain types, and the names of named numbers in the place of these.

    Args:
        file: the file.
        known: columns that are read although they are a pandas index.
        form: what stands for a missing value in text, and how numbers in text are written.

    Raises:
        DataError: it cannot be read as Parquet, or a text in it is not UTF-8.
    """
    layout = layouts_of((file,))[file]
    wanted = [name for name in layout.schema.names if name not in layout.index or name in known]
    try:
        table = pq.read_table(file, columns=wanted, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
    columns = {}
    for name in wanted:
        values = plain(table[name], plain_type(table[name].type), what=f"{file}, column {name!r}")
        if name in layout.class_names and not holds_lists(values.type):
            values = _named_values(values, layout.class_names[name])
        if pa.types.is_large_string(values.type):
            require_utf8(values, what=partial(_what, file, name))
            values = without_missing(values, form.missing)
        columns[name] = values
    return Table(
        columns=columns,
        rows=table.num_rows,
        name=str(file),
        place=lambda row: f"{file}, row {row}",
        decimal=form.decimal,
    )


def _what(file: Path, column: str, row: int) -> str:
    return f"{file}, row {row}, column {column!r}"


def _named_values(numbers: Any, names: Sequence[str]) -> Any:
    """Return the names of numbers; a number that has none, by which data sets mark a missing value, is null."""
    places = numbers.cast(pa.int64())
    known = pc.and_(pc.greater_equal(places, 0), pc.less(places, len(names)))
    return pc.take(pa.array(names, pa.large_string()), pc.if_else(known, places, pa.scalar(None, pa.int64())))


def layouts_of(files: Iterable[Path]) -> Layouts:
    """Return the layout of each file. Files of one data set mostly have the same, which is then kept once."""
    found: dict[Path, Layout] = {}
    last: Layout | None = None
    for file in files:
        schema = _schema(file)
        if last is None or not schema.equals(last.schema, check_metadata=True):
            last = Layout(schema=schema, class_names=class_names_of(schema), index=index_columns(schema))
        found[file] = last
    return found


def index_of(layouts: Layouts) -> frozenset[str]:
    """Return the columns that are a pandas index in any file: those of files written from parts of one frame differ."""
    return frozenset[str]().union(*(layout.index for layout in layouts.values()))


def _schema(file: Path) -> Any:
    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise DataError(
            f"{file}: more than one column is named {some([repr(name) for name in twice])}, and a name cannot tell "
            "which is meant; give each column a name of its own"
        )
    return schema


def require_same_columns(file: Path, first: Path, layouts: Layouts, wanted: Sequence[str], unasked: "Unasked") -> None:
    """Refuse a file that lacks a column, or has one more of those that are taken because they are there.

    Raises:
        DataError: names both files and the columns.
    """
    if layouts[file] is layouts[first]:
        return
    missing = [column for column in wanted if column not in layouts[file].columns]
    taken, remedy = unasked
    known = set(taken(layouts[first]))
    more = [column for column in taken(layouts[file]) if column not in known]
    if missing or more:
        only = [(first, missing), (file, more)]
        parts = [f"only {each} has {some([repr(name) for name in names])}" for each, names in only if names]
        raise DataError(f"{file} and {first} have different columns: {'; '.join(parts)}. {remedy}")


Unasked = tuple[Callable[[Layout], Sequence[str]], str]


def taken_unasked(role: Roles, data: Data, index: frozenset[str]) -> Unasked:
    """Return which columns are taken because they are there, and how the experiment says which are wanted."""
    both = "write the files with the same columns, or set it"
    if role.files is None and role.text is None and data.feature_columns is None:
        how = f"Every column is a feature unless feature_columns names those to use; {both}"
        passed = {*index, data.group_column}
        return lambda layout: tuple(name for name in layout.schema.names if name not in passed), how
    what = "image" if role.sound is None else "audio"
    if role.files is not None and (data.image_column if role.sound is None else data.audio_column) is None:
        how = f"The first column of files is the {what} unless {what}_column names it; {both}"
        return lambda layout: file_columns(layout.schema), how
    return lambda _: (), "Each file needs each column that is used"


def _read(files: Sequence[Path], wanted: Sequence[str], layouts: Layouts, role: Roles, *, first: Path) -> Records:
    """Read files as one table of plain types, its numbers in the order of the names in the first training file."""
    parts: dict[str, list[Any]] = {column: [] for column in wanted}
    ends: list[int] = []
    coded = role.coded
    with working("reading Parquet files", len(files)) as done:
        for number, file in enumerate(files, start=1):
            try:
                # What the names of folders say (year=2020) is no column of the file.
                table = pq.read_table(file, columns=list(wanted), partitioning=None)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
            ends.append(table.num_rows + (ends[-1] if ends else 0))
            for column, values in zip(table.column_names, table.columns, strict=True):
                what = f"{file}, column {column!r}"
                held = plain(values, plain_type(values.type, coded=column in coded), what=what)
                parts[column].append(_renumbered(held, column, layouts, file=file, first=first))
            done(number)

    def place(row: int) -> str:
        number = min(bisect_right(ends, row), len(files) - 1)
        return f"{files[number]}, row {row - (ends[number - 1] if number else 0)}"

    together = {column: _together(column, held, files, layouts, role) for column, held in parts.items()}
    return Records(
        table=pa.table(together),
        class_names=layouts[first].class_names,
        name=some([str(file) for file in files]),
        place=place,
    )


def _together(column: str, parts: Sequence[Any], files: Sequence[Path], layouts: Layouts, role: Roles) -> Any:
    """Return a column of several files as one, in a type in which all its values mean what they mean alone.

    Raises:
        DataError: there is no such type; it names two files and their types.
    """
    kind = common_kind(column, [part.type for part in parts], files, layouts, role)
    chunks = [
        chunk
        for part, file in zip(parts, files, strict=True)
        for chunk in plain(part, kind, what=f"{file}, column {column!r}").chunks
    ]
    return pa.chunked_array(chunks, type=kind)


def common_kind(column: str, kinds: Sequence[Any], files: Sequence[Path], layouts: Layouts, role: Roles) -> Any:
    """Return the type in which a column means the same in every file.

    Raises:
        DataError: there is none; it names two files and their types.
    """
    flags = {"coded": column in role.coded, "booleans": role.target == "labels" and column in role.labels}
    kind = common_type(dict.fromkeys(kinds), **flags)
    if kind is None:
        other = next(place for place in range(1, len(kinds)) if common_type(kinds[: place + 1], **flags) is None)
        one = next(place for place in range(other) if common_type((kinds[place], kinds[other]), **flags) is None)
        raise DataError(
            f"{files[other]} and {files[one]} have different column types: column {column!r} has type "
            f"{layouts[files[other]].kind(column)} in the former and {layouts[files[one]].kind(column)} in the latter; "
            "write both files with one type"
        )
    return kind


def _renumbered(values: Any, column: str, layouts: Layouts, *, file: Path, first: Path) -> Any:
    """Return a column with its numbers in the order of the names in the first file.

    A number that has no name stays as it is. Named numbers become 64-bit integers.

    Raises:
        DataError: the column has names in one file alone, or not the same set of names in both; it names both files.
    """
    own, wanted = layouts[file].class_names.get(column), layouts[first].class_names.get(column)
    if own is None and wanted is None:
        return values
    if own is None or wanted is None:
        without, with_names = (file, first) if own is None else (first, file)
        raise DataError(
            f"{without}, column {column!r}: nothing says what its numbers mean; in {with_names} the metadata names "
            f"them: {', '.join(own or wanted or ())}. Write both files with the names, or with strings in the "
            "place of numbers"
        )
    if own != wanted and (set(own) != set(wanted) or len(set(own)) < len(own) or len(own) != len(wanted)):
        raise DataError(
            f"{file}, column {column!r}: its numbers mean {', '.join(own)}, and in {first} "
            f"{', '.join(wanted)}. Write both files with the same names, or with strings in the place of numbers"
        )
    if own == wanted:
        return values
    order = [wanted.index(each) for each in own]
    if holds_lists(values.type):
        return with_items(values, lambda items: _in_order(items, order))
    return _in_order(values, order)


def _in_order(values: Any, order: Sequence[int]) -> Any:
    """Return integers, each by the order; one that is no index into it stays as it is."""
    numbers = values.cast(pa.int64())
    named = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(order)))
    found = pc.take(pa.array(order, pa.int64()), pc.if_else(named, numbers, pa.scalar(None, pa.int64())))
    return pc.if_else(named, found, numbers)
