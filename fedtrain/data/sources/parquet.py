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
from fedtrain.data.sources.types import Decoded
from fedtrain.errors import DataError


def decode(data: Data) -> Decoded:
    """Read training files, and test files where ``test_path`` is set.

    Raises:
        DataError: a file is missing or malformed, or the two sets overlap or do not match.
    """
    assert data.path is not None  # Data is validated
    train = parquet_files(data.path)
    test = parquet_files(data.test_path) if data.test_path else ()
    shared = {file.resolve() for file in train} & {file.resolve() for file in test}
    if shared:
        raise DataError(f"{min(shared)} is both training and test data; give path and test_path different files")
    role = roles(_schema(train[0]), data, name=str(train[0]))
    testing = _read(test, role, owner=False) if test else None
    return decode_tables(_read(train, role), testing, role, class_names=data.class_names)


def _schema(file: Path) -> Any:
    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error


def _read(files: Sequence[Path], role: Roles, *, owner: bool = True) -> Records:
    wanted = [column for column in role.columns if owner or column != role.owner or column in role.labels]
    tables = []
    for file in files:
        schema = _schema(file)
        absent = [column for column in wanted if column not in schema.names]
        if absent:
            raise DataError(f"{file}: there is no column {absent[0]!r}; its columns are {', '.join(schema.names)}")
        try:
            tables.append(pq.read_table(file, columns=wanted))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"{files[0]} and its siblings have different column types: {error}") from error
    ends = list(accumulate(part.num_rows for part in tables))

    def place(row: int) -> str:
        number = min(bisect_right(ends, row), len(files) - 1)
        return f"{files[number]}, row {row - (ends[number - 1] if number else 0)}"

    return Records(table=table, name=", ".join(str(file) for file in files), place=place)
