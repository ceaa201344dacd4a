"""Parquet files in the column layout of the Hugging Face hub: images, or tables of numbers and categories."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedtrain.config import Data
from fedtrain.data.inputs import parquet_files
from fedtrain.data.sources.arrow import Records, Roles, decode_tables, roles
from fedtrain.data.sources.shards import concatenated, renumbered, require_same_types
from fedtrain.data.sources.types import Decoded
from fedtrain.errors import DataError


def decode(data: Data) -> Decoded:
    """Read training files, and test files where ``test_path`` is set.

    Raises:
        DataError: a file is missing or malformed, the two sets overlap or do not match, or columns or the names of
            their classes differ between files.
    """
    assert data.path is not None  # Data is validated
    train = parquet_files(data.path)
    test = parquet_files(data.test_path) if data.test_path else ()
    shared = {file.resolve() for file in train} & {file.resolve() for file in test}
    if shared:
        raise DataError(f"{min(shared)} is both training and test data; give path and test_path different files")
    first = read_schema(train[0])
    role = roles(first, data, name=str(train[0]))
    if data.feature_columns is None and role.image is None:
        for file in (*train[1:], *test):
            _require_same_columns(file, role, first_name=train[0])

    def read(files: Sequence[Path], *, owner: bool) -> Records:
        return _read(files, role, owner=owner, first=first, first_name=str(train[0]))

    testing = read(test, owner=False) if test else None
    return decode_tables(read(train, owner=True), testing, role, class_names=data.class_names)


def read_schema(file: Path) -> Any:
    """Return the columns, types and metadata of a file, a ``pyarrow.Schema``.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error


def _require_same_columns(file: Path, role: Roles, *, first_name: Path) -> None:
    """Refuse a column that the first file does not have, where every column is a feature."""
    more = [column for column in read_schema(file).names if column not in role.columns]
    if more:
        raise DataError(
            f"{file} has a column {more[0]!r}, and {first_name} has none; every column is a feature unless "
            "feature_columns names those to use"
        )


def _read(files: Sequence[Path], role: Roles, *, owner: bool, first: Any, first_name: str) -> Records:
    """Read files as one table, its numbers in the order of the names in the first training file."""
    wanted = [column for column in role.columns if owner or column != role.owner or column in role.labels]
    own = read_schema(files[0])
    tables = []
    for file in files:
        schema = read_schema(file)
        absent = [column for column in wanted if column not in schema.names]
        if absent:
            raise DataError(
                f"{file}: there is no column {absent[0]!r}; its columns are {', '.join(schema.names)}. "
                f"{first_name} has it"
            )
        require_same_types(schema, wanted, name=str(file), first=own, first_name=str(files[0]))
        try:
            table = pq.read_table(file, columns=wanted)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
        tables.append(renumbered(table, name=str(file), first=first, first_name=first_name))
    ends = list(accumulate(part.num_rows for part in tables))

    def place(row: int) -> str:
        number = min(bisect_right(ends, row), len(files) - 1)
        return f"{files[number]}, row {row - (ends[number - 1] if number else 0)}"

    return Records(table=concatenated(tables, wanted), name=", ".join(str(file) for file in files), place=place)
