"""The groups of test records: what a column of their files says, such as a site or a speaker.

A group is read for evaluation alone. It is no feature unless the configuration names its column as one too, and no
client needs it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedtrain.config import Data
from fedtrain.data.schema import read_schema
from fedtrain.data.sources.base import Place, path_of
from fedtrain.data.sources.kinds import files_of
from fedtrain.data.types import Split
from fedtrain.errors import DataError

LONGEST: Final = 200
"""Characters of the name of a group at most: names stand in the report."""


def with_groups(split: Split, data: Data, *, path: str) -> tuple[Split, tuple[str, ...]]:
    """Return records with the codes of their groups, and the names of the groups in the order of the codes.

    Args:
        split: all records of the files, in their order.
        data: names the column; without one the records are returned as they are.
        path: the files, as the configuration names them.

    Raises:
        DataError: there is no such column, or a record has no value there that could be the name of a group.
    """
    if data.group_column is None:
        return split, ()
    values = [
        value for file in files_of(path, suffix=f".{data.source}") for value in _values(file, data, data.group_column)
    ]
    if len(values) != len(split):
        raise DataError(f"{path}: {len(values):,} rows have a group, and {len(split):,} records were read")
    names = sorted(set(values))
    index = {name: code for code, name in enumerate(names)}
    codes = np.fromiter((index[value] for value in values), np.int64, len(values))
    return replace(split, groups=codes), tuple(names)


def renumbered(split: Split, names: Sequence[str]) -> tuple[Split, tuple[str, ...]]:
    """Return records of which some were taken, with their groups numbered anew: without those that have none left."""
    if split.groups is None:
        return split, ()
    left, codes = np.unique(split.groups, return_inverse=True)
    return replace(split, groups=codes.astype(np.int64)), tuple(names[code] for code in left)


def _values(file: Path, data: Data, column: str) -> list[str]:
    by_rows = data.schema_file is None and data.source == "parquet"
    found, place = _of_parquet(file, column) if by_rows else _of_table(file, data, column)
    names: list[str | None] = _texts(file, column, found).to_pylist()
    for row, name in enumerate(names):
        if not name:
            raise DataError(
                f'{place(row)}: there is no value in data.group_column = "{column}"; write one for each record, '
                'such as "unknown"'
            )
        if len(name) > LONGEST:
            raise DataError(
                f'{place(row)}: data.group_column = "{column}" has a value of {len(name):,} characters, and the '
                f"report names groups: a name has at most {LONGEST}"
            )
    return [name for name in names if name]


def _of_table(file: Path, data: Data, column: str) -> tuple[Any, Place]:
    from fedtrain.data.sources.delimited import read_delimited  # noqa: PLC0415 - pyarrow takes a second to import
    from fedtrain.data.sources.listed import read_listed  # noqa: PLC0415
    from fedtrain.data.sources.parquet import read_table  # noqa: PLC0415
    from fedtrain.data.sources.values import without_missing  # noqa: PLC0415

    if data.schema_file is None:
        table = read_listed(file)
        _require(file, column, list(table.columns))
        return table.columns[column], table.place
    schema = read_schema(path_of(data.schema_file))
    if file.suffix == ".parquet":
        table = read_table(file, {column, *schema.columns}, schema.csv)
    else:
        table = read_delimited(file, schema.csv, names=None if schema.csv.header else tuple(schema.columns))
    _require(file, column, list(table.columns))
    values = table.columns[column]
    return values if file.suffix == ".parquet" else without_missing(values, schema.csv.missing), table.place


def _of_parquet(file: Path, column: str) -> tuple[Any, Place]:
    import pyarrow as pa  # noqa: PLC0415 - takes a second to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    from fedtrain.data.sources.parquet import layouts_of  # noqa: PLC0415
    from fedtrain.data.sources.plain import plain, plain_type  # noqa: PLC0415

    def place(row: int) -> str:
        return f"{file}, row {row}"

    layout = layouts_of((file,))[file]
    _require(file, column, layout.schema.names)
    try:
        values = pq.read_table(file, columns=[column], partitioning=None)[column]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
    values = plain(values, plain_type(values.type), what=f"{file}, column {column!r}")
    names = layout.class_names.get(column)
    if names is None or not pa.types.is_integer(values.type):
        return values, place
    known = dict(enumerate(names))
    # A number that has no name stays one.
    found = [[known.get(value, value and str(value)) for value in values.to_pylist()]]
    return pa.chunked_array(found, pa.large_string()), place


def _texts(file: Path, column: str, values: Any) -> Any:
    """Return the names of groups as strings without spaces around, a ``pyarrow.ChunkedArray``.

    Raises:
        DataError: they are neither texts nor whole numbers nor booleans, or a text is not UTF-8.
    """
    import pyarrow as pa  # noqa: PLC0415 - takes a second to import
    import pyarrow.compute as pc  # noqa: PLC0415

    from fedtrain.data.sources.plain import named, require_utf8  # noqa: PLC0415

    kind, types = values.type, pa.types
    allowed = (types.is_integer, types.is_boolean, types.is_null, types.is_large_string)
    if not any(is_of(kind) for is_of in allowed):
        raise DataError(
            f'{file}: data.group_column = "{column}" has type {named(kind)}, and groups are texts or whole numbers'
        )
    texts = values.cast(pa.large_string())
    require_utf8(texts, what=lambda row: f"{file}, row {row}, column {column!r}")
    return pc.utf8_trim_whitespace(texts)


def _require(file: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise DataError(f'{file} has no column "{column}", which data.group_column names; it has: {", ".join(names)}')
