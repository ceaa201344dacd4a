"""CSV files without a schema file: each row is a text, or names the file of an image or a sound.

A file is in UTF-8, with commas, and the names of the columns in its first row. Nothing is inferred: a class is the text
that stands there. A path is relative to the folder of the CSV file. What a table of numbers means needs a schema file.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from fedtrain.config import Data
from fedtrain.data.schema import CsvFormat
from fedtrain.data.sources.arrow import Records, Roles, decode_tables, roles
from fedtrain.data.sources.base import Decoded, path_of, require_records
from fedtrain.data.sources.columns import require_values
from fedtrain.data.sources.delimited import read_delimited
from fedtrain.data.sources.kinds import files_of
from fedtrain.data.sources.values import Table, Values, number_values
from fedtrain.errors import DataError
from fedtrain.progress import working

_FORM: Final = CsvFormat()
_SHOWN: Final = 80
_FILE: Final = pa.struct([("bytes", pa.large_binary())])


def decode_listed(data: Data) -> Decoded:
    """Read training files, and test files where ``test_path`` is set, and the images or sounds that they name.

    Raises:
        DataError: a file is missing or malformed, lacks a column, or is both training and test data.
    """
    assert data.path is not None  # Data is validated
    train, test = _tables(data.path, data), _tables(data.test_path, data) if data.test_path else ()
    if shared := {Path(table.name).resolve() for table in train} & {Path(table.name).resolve() for table in test}:
        raise DataError(f"{min(shared)} is both training and test data; give path and test_path different files")
    role = roles(_schema(train[0], data), data, name=train[0].name)
    files = [_paths(table, role.files) if role.files else () for table in (*train, *test)]
    _require_apart(train, test, files)
    training = _records(train, files[: len(train)], role, role.columns)
    measured = tuple(column for column in role.columns if column != role.owner or column in role.labels)
    testing = _records(test, files[len(train) :], role, measured) if test else None
    return decode_tables(training, testing, role, class_names=data.class_names)


def listed_files(data: Data) -> tuple[Path, ...]:
    """Return the images or sounds that the training and test files name; none of texts.

    Raises:
        DataError: a CSV file is missing or malformed, or names a file that is not there.
    """
    column = _column_of_files(data)
    if column is None:
        return ()
    tables = [table for path in (data.path, data.test_path) if path is not None for table in _tables(path, data)]
    return tuple(file for table in tables for file in _paths(table, column))


def read_listed(file: Path, texts: Sequence[str] = ()) -> Table:
    """Read a file; the columns of texts as they stand.

    Raises:
        DataError: as `fedtrain.data.sources.delimited.read_delimited`.
    """
    return read_delimited(file, _FORM, names=None, texts=texts, by_schema=False)


def _tables(path: str, data: Data) -> tuple[Table, ...]:
    texts = () if data.text_column is None else (data.text_column,)
    found = tuple(read_listed(file, texts) for file in files_of(path, suffix=".csv"))
    for table in found:
        require_records(table.rows, table.name)
    return found


def _column_of_files(data: Data) -> str | None:
    return data.image_column if data.sample_rate is None else data.audio_column


def _schema(table: Table, data: Data) -> Any:
    """Return the schema that a Parquet file with these records would have."""
    files = _column_of_files(data)
    return pa.schema([(name, _FILE if name == files else pa.large_string()) for name in table.columns])


def _paths(table: Table, column: str) -> tuple[Path, ...]:
    """Return the files that a table names.

    Raises:
        DataError: a path is missing, of no file, or not to be followed by this user.
    """
    _require(table, column)
    values = table.columns[column]
    require_values(values, column=column, place=table.place)
    folder = Path(table.name).parent
    return tuple(_file(folder, name, table, column, row) for row, name in enumerate(values.to_pylist()))


def _file(folder: Path, name: str, table: Table, column: str, row: int) -> Path:
    try:
        file = folder / path_of(name)
        if file.is_file():
            return file
        problem = f"{file}: there is no such file"
    except DataError as error:
        problem = str(error)
    except OSError as error:  # a folder that may not be entered, a name that is too long
        problem = f"{name[:_SHOWN]}: {error.strerror}"
    raise DataError(f"{table.place(row)}, column {column!r}: {problem}")


def _require(table: Table, column: str) -> None:
    if column not in table.columns:
        raise DataError(f"{table.name}: there is no column {column!r}; its columns are {', '.join(table.columns)}")


def _require_apart(train: Sequence[Table], test: Sequence[Table], files: Sequence[Sequence[Path]]) -> None:
    """Refuse a file that is a training record and a test record.

    Raises:
        DataError: there is one.
    """
    known = {file.resolve() for each in files[: len(train)] for file in each}
    for table, named in zip(test, files[len(train) :], strict=True):
        for row, file in enumerate(named):
            if file.resolve() in known:
                raise DataError(f"{table.place(row)}: {file} is training data too; leave it out of either")


def _records(tables: Sequence[Table], files: Sequence[Sequence[Path]], role: Roles, columns: Sequence[str]) -> Records:
    """Return the columns of several files as one table, with types that a Parquet file would have."""
    for table in tables:
        for column in columns:
            _require(table, column)
    ends = list(accumulate(table.rows for table in tables))

    def place(row: int) -> str:
        number = min(bisect_right(ends, row), len(tables) - 1)
        own = row - (ends[number - 1] if number else 0)
        return tables[number].place(own) + (f" ({files[number][own]})" if role.files else "")

    def values(column: str) -> Any:
        parts = [_contents(named) if column == role.files else _typed(table, column, role) for table, named in pairs]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)

    pairs = tuple(zip(tables, files, strict=True))
    together = pa.table({column: values(column) for column in columns})
    return Records(table=together, class_names={}, name=", ".join(table.name for table in tables), place=place)


def _contents(files: Sequence[Path]) -> Any:
    read = []
    with working("reading the files that a table names", len(files)) as done:
        for number, file in enumerate(files, start=1):
            try:
                read.append(pa.array([file.read_bytes()], pa.large_binary()))
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error}") from error
            done(number)
    return pa.chunked_array(read, pa.large_binary())


def _typed(table: Table, column: str, role: Roles) -> Any:
    """Return a column as what it is read for: a number, yes or no, or the text that stands there.

    Raises:
        DataError: a value is none.
    """
    if column not in role.labels or role.target not in {"number", "labels"}:
        return table.columns[column]
    if role.target == "number":
        return number_values(table, column)
    found, absent = Values(table=table, column=column, counts=Counter()).booleans()
    return pa.chunked_array([pa.array(found == 1, pa.bool_(), mask=absent)])
