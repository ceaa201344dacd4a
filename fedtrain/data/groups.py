"""The groups of test records: what a column of their files says, such as a site or a speaker.

A group is read for evaluation alone. It is no feature unless the configuration names its column as one too, and no
client needs it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedtrain.config import Data
from fedtrain.data.schema import read_schema
from fedtrain.data.sources import source_of
from fedtrain.data.sources.base import path_of
from fedtrain.data.types import Split
from fedtrain.errors import DataError


def with_groups(split: Split, data: Data, *, path: str) -> tuple[Split, tuple[str, ...]]:
    """Return records with the codes of their groups, and the names of the groups in the order of the codes.

    Args:
        split: all records of the files, in their order.
        data: names the column; without one the records are returned as they are.
        path: the files, as the configuration names them.

    Raises:
        DataError: there is no such column, or a record has no value there.
    """
    if data.group_column is None:
        return split, ()
    alone = data.model_copy(update={"path": path, "test_path": None, "schema_file": None})
    files = source_of(data.source).files(alone)
    values = [value for file in files for value in _values(file, data, data.group_column)]
    if len(values) != len(split):
        raise DataError(f"{path}: {len(values):,} rows have a group, and {len(split):,} records were read")
    names, codes = np.unique(np.array(values, dtype=np.str_), return_inverse=True)
    return replace(split, groups=codes.astype(np.int64)), tuple(map(str, names))


def renumbered(split: Split, names: Sequence[str]) -> tuple[Split, tuple[str, ...]]:
    """Return records of which some were taken, with their groups numbered anew: without those that have none left."""
    if split.groups is None:
        return split, ()
    left, codes = np.unique(split.groups, return_inverse=True)
    return replace(split, groups=codes.astype(np.int64)), tuple(names[code] for code in left)


def _values(file: Path, data: Data, column: str) -> list[str]:
    found = _by_schema(file, data, column) if data.schema_file is not None else _of_parquet(file, column)
    for row, value in enumerate(found):
        if value is None or value == "":
            raise DataError(
                f'{file}, row {row}: there is no value in data.group_column = "{column}"; write one for each record, '
                'such as "unknown"'
            )
    return [str(value) for value in found]


def _by_schema(file: Path, data: Data, column: str) -> list[Any]:
    from fedtrain.data.sources.delimited import read_delimited  # noqa: PLC0415 - pyarrow takes a second to import
    from fedtrain.data.sources.parquet import read_table  # noqa: PLC0415

    schema = read_schema(path_of(str(data.schema_file)))
    if file.suffix == ".parquet":
        table = read_table(file, {column, *schema.columns}, schema.csv)
    else:
        table = read_delimited(file, schema.csv, names=None if schema.csv.header else tuple(schema.columns))
    _require(file, column, list(table.columns))
    missing = set(schema.csv.missing)
    return [None if value in missing else value for value in table.columns[column].to_pylist()]


def _of_parquet(file: Path, column: str) -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - takes a second to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    from fedtrain.data.sources.parquet import layouts_of  # noqa: PLC0415
    from fedtrain.data.sources.plain import holds_lists, named  # noqa: PLC0415

    layout = layouts_of((file,))[file]
    _require(file, column, layout.schema.names)
    kind = layout.kind(column)
    if holds_lists(kind) or pa.types.is_struct(kind) or pa.types.is_floating(kind):
        raise DataError(
            f'{file}: data.group_column = "{column}" has type {named(kind)}, and groups are texts or whole numbers'
        )
    try:
        values = pq.read_table(file, columns=[column], partitioning=None)[column].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
    names = layout.class_names.get(column)
    if names is None:
        return list(values)
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]


def _require(file: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise DataError(f'{file} has no column "{column}", which data.group_column names; it has: {", ".join(names)}')
