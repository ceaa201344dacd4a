"""Parquet files in the column layout of the Hugging Face hub, and data sets of the hub, by way of its library.

Several files are one table, whose columns mean the same in every file. The metadata of the hub names the numbers of a
column: 0 is "cat", 1 is "dog". Each file has names of its own, and the number 0 of one may be the number 1 of another.
Numbers are therefore brought into the order of the first file, and files whose columns cannot be compared are refused.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedtrain.config import Data
from fedtrain.data.sources.arrow import Records, Roles, decode_tables, holds_lists, hub_names, roles
from fedtrain.data.sources.base import Decoded, require_records
from fedtrain.data.sources.kinds import parquet_files
from fedtrain.errors import DataError


def decode_parquet(data: Data) -> Decoded:
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
    first = _schema(train[0])
    role = roles(first, data, name=str(train[0]))
    if data.feature_columns is None and role.image is None:
        for file in (*train[1:], *test):
            _require_same_columns(file, role, first_name=train[0])

    def read(files: Sequence[Path], *, owner: bool) -> Records:
        return _read(files, role, owner=owner, first=first, first_name=str(train[0]))

    testing = read(test, owner=False) if test else None
    return decode_tables(read(train, owner=True), testing, role, class_names=data.class_names)


def _schema(file: Path) -> Any:
    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error


def _require_same_columns(file: Path, role: Roles, *, first_name: Path) -> None:
    """Refuse a column that the first file does not have, where every column is a feature."""
    more = [column for column in _schema(file).names if column not in role.columns]
    if more:
        raise DataError(
            f"{file} has a column {more[0]!r}, and {first_name} has none; every column is a feature unless "
            "feature_columns names those to use"
        )


def _read(files: Sequence[Path], role: Roles, *, owner: bool, first: Any, first_name: str) -> Records:
    """Read files as one table, its numbers in the order of the names in the first training file."""
    wanted = [column for column in role.columns if owner or column != role.owner or column in role.labels]
    own = _schema(files[0])
    tables = []
    for file in files:
        schema = _schema(file)
        absent = [column for column in wanted if column not in schema.names]
        if absent:
            raise DataError(
                f"{file}: there is no column {absent[0]!r}; its columns are {', '.join(schema.names)}. "
                f"{first_name} has it"
            )
        _require_same_types(schema, wanted, name=str(file), first=own, first_name=str(files[0]))
        try:
            table = pq.read_table(file, columns=wanted)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
        tables.append(_renumbered(table, name=str(file), first=first, first_name=first_name))
    ends = list(accumulate(part.num_rows for part in tables))

    def place(row: int) -> str:
        number = min(bisect_right(ends, row), len(files) - 1)
        return f"{files[number]}, row {row - (ends[number - 1] if number else 0)}"

    return Records(table=_concatenated(tables, wanted), name=", ".join(str(file) for file in files), place=place)


def _require_same_types(schema: Any, columns: Sequence[str], *, name: str, first: Any, first_name: str) -> None:
    """Refuse a file whose columns have other types than in the first file.

    Raises:
        DataError: names both files, the column and its types.
    """
    for column in columns:
        kind, expected = schema.field(column).type, first.field(column).type
        if kind != expected:
            raise DataError(
                f"{name} and {first_name} have different column types: column {column!r} has type {kind} in the "
                f"former and {expected} in the latter; write both files with one type"
            )


def _renumbered(table: Any, *, name: str, first: Any, first_name: str) -> Any:
    """Return a table with the numbers of named columns in the order of the first file.

    A number that has no name stays as it is. Named numbers become 64-bit integers.

    Args:
        table: a ``pyarrow.Table``.
        name: its file.
        first: the schema of the first file; it has every column of the table.
        first_name: the first file.

    Raises:
        DataError: a column has names in one file alone, or not the same set of names in both; it names both files.
    """
    for index, column in enumerate(table.column_names):
        own, wanted = hub_names(table.schema, column), hub_names(first, column)
        if own is None and wanted is None:
            continue
        if own is None or wanted is None:
            without, with_names = (name, first_name) if own is None else (first_name, name)
            raise DataError(
                f"{without}, column {column!r}: nothing says what its numbers mean; in {with_names} the metadata names "
                f"them: {', '.join(own or wanted or ())}. Write both files with the names, or with strings in the "
                "place of numbers"
            )
        if own != wanted and (set(own) != set(wanted) or len(set(own)) < len(own) or len(own) != len(wanted)):
            raise DataError(
                f"{name}, column {column!r}: its numbers mean {', '.join(own)}, and in {first_name} "
                f"{', '.join(wanted)}. Write both files with the same names, or with strings in the place of numbers"
            )
        order = [wanted.index(each) for each in own]
        values = table[column]
        numbers = _in_lists(values, order) if holds_lists(values.type) else _in_order(values, order)
        table = table.set_column(index, column, numbers)
    return table


def _concatenated(tables: Sequence[Any], columns: Sequence[str]) -> Any:
    """Return tables of the same types as one, with the metadata of the first."""
    together = {
        column: pa.chunked_array(
            [chunk for table in tables for chunk in table[column].chunks], type=tables[0][column].type
        )
        for column in columns
    }
    return pa.table(together, metadata=tables[0].schema.metadata)


def _in_order(values: Any, order: Sequence[int]) -> Any:
    """Return integers, each by the order; one that is no index into it stays as it is."""
    numbers = values.cast(pa.int64())
    named = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(order)))
    found = pc.take(pa.array(order, pa.int64()), pc.if_else(named, numbers, pa.scalar(None, pa.int64())))
    return pc.if_else(named, found, numbers)


def _in_lists(values: Any, order: Sequence[int]) -> Any:
    """Return lists of integers, each integer by the order."""
    lists = values.cast(pa.large_list(pa.int64())).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    items = _in_order(pc.list_flatten(lists), order)
    missing = lists.is_null() if lists.null_count else None
    return pa.chunked_array([pa.LargeListArray.from_arrays(offsets, items, mask=missing)])


def decode_hub(data: Data) -> Decoded:
    """Read the splits "train" and, unless ``test_fraction`` is set, "test"; downloads what is not on this machine.

    Raises:
        DataError: the data set is unknown, cannot be downloaded, lacks a split, is malformed, or is a folder of Parquet
            files whose names of classes differ.
    """
    assert data.dataset is not None  # Data is validated
    folder = Path(data.dataset).expanduser()
    name = str(folder) if folder.is_dir() else data.dataset
    import datasets  # noqa: PLC0415 - it takes a second, which files on this machine need not pay

    try:
        splits = datasets.load_dataset(name, name=data.subset)
    except Exception as error:  # network, hub and builders raise errors of many types
        raise DataError(
            f'{_describe(data)} cannot be loaded: {type(error).__name__}: {error}; source = "hub" downloads the data '
            'set by name: check the name and the network, or use source = "parquet" with files on this machine'
        ) from error
    train = _records(data, splits, "train")
    test = None if data.test_fraction is not None else _records(data, splits, "test")
    role = roles(train.table.schema, data, name=train.name)
    if test is not None:
        absent = [column for column in role.columns if column != role.owner and column not in test.table.column_names]
        if absent:
            raise DataError(f"{test.name}: there is no column {absent[0]!r}")
    if folder.is_dir():
        found = datasets.load_dataset_builder(name, name=data.subset).config.data_files or {}
        used = ["train"] if test is None else ["train", "test"]
        files = [Path(file) for split in used for file in found.get(split, ()) if Path(file).suffix == ".parquet"]
        _require_same_names(files, role, loaded=train)
    return decode_tables(train, test, role, class_names=data.class_names)


def _require_same_names(files: Sequence[Path], role: Roles, *, loaded: Records) -> None:
    """Refuse files whose names of classes are not those by which the datasets library has read their numbers."""
    for column in role.columns:
        schemas = {file: _schema(file) for file in files}
        names = {file: hub_names(schema, column) for file, schema in schemas.items() if column in schema.names}
        used = hub_names(loaded.table.schema, column)
        named = [file for file, own in names.items() if own is not None]
        for file, own in names.items():
            if own is None and named:
                raise DataError(
                    f"{file}, column {column!r}: nothing says what its numbers mean; in {named[0]} the metadata names "
                    f"them: {', '.join(names[named[0]] or ())}. Write both files with the names"
                )
            if own is not None and own != used:
                raise DataError(
                    f"{file}, column {column!r}: its numbers mean {', '.join(own)}, and {loaded.name} has been read "
                    f"with {', '.join(used or ()) or 'no names'}, those of another file. Write all files with the same "
                    'names in the same order, or read them with source = "parquet"'
                )


def _records(data: Data, splits: Any, split: str) -> Records:
    if split not in splits:
        raise DataError(
            f"{_describe(data)} has no split {split!r}; its splits are: {', '.join(splits)}"
            + ("; set test_fraction to hold a part of the training records out" if split == "test" else "")
        )
    from datasets.table import embed_table_storage  # noqa: PLC0415

    name = f"{_describe(data)}, split {split!r}"
    require_records(len(splits[split]), name)
    # Images that lie in files of their own are brought into the table.
    return Records(
        table=embed_table_storage(splits[split].data.table), name=name, place=lambda row: f"{name}, row {row}"
    )


def _describe(data: Data) -> str:
    return f"data set {data.dataset!r}" + (f", subset {data.subset!r}" if data.subset else "")
