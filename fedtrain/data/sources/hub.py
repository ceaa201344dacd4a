"""Data sets of the Hugging Face hub by name, or local folders in its layout, through the datasets library."""

from pathlib import Path
from typing import Any

import datasets
from datasets.table import embed_table_storage

from fedtrain.config import Data
from fedtrain.data.sources.arrow import Records, Roles, decode_tables, roles
from fedtrain.data.sources.parquet import read_schema
from fedtrain.data.sources.shards import hub_names
from fedtrain.data.sources.types import Decoded, require_records
from fedtrain.errors import DataError


def decode(data: Data) -> Decoded:
    """Read the splits "train" and, unless ``test_fraction`` is set, "test"; downloads what is not on this machine.

    Raises:
        DataError: the data set is unknown, cannot be downloaded, lacks a split, is malformed, or is a folder of Parquet
            files whose names of classes differ.
    """
    assert data.dataset is not None  # Data is validated
    folder = Path(data.dataset).expanduser()
    name = str(folder) if folder.is_dir() else data.dataset
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
    for file in sorted(folder.rglob("*.parquet")) if folder.is_dir() else ():
        _require_same_names(file, role, loaded=train)
    return decode_tables(train, test, role, class_names=data.class_names)


def _require_same_names(file: Path, role: Roles, *, loaded: Records) -> None:
    """Refuse a file whose names of classes are not those by which the datasets library has read its numbers."""
    schema = read_schema(file)
    for column in role.columns:
        names = hub_names(schema, column) if column in schema.names else None
        used = hub_names(loaded.table.schema, column)
        if names is not None and names != used:
            raise DataError(
                f"{file}, column {column!r}: its numbers mean {', '.join(names)}, and {loaded.name} has been read with "
                f"{', '.join(used or ()) or 'no names'}, those of another file. Write all files with the same names in "
                'the same order, or read them with source = "parquet"'
            )


def _records(data: Data, splits: Any, split: str) -> Records:
    if split not in splits:
        raise DataError(
            f"{_describe(data)} has no split {split!r}; its splits are: {', '.join(splits)}"
            + ("; set test_fraction to hold a part of the training records out" if split == "test" else "")
        )
    name = f"{_describe(data)}, split {split!r}"
    require_records(len(splits[split]), name)
    # Images that lie in files of their own are brought into the table.
    return Records(
        table=embed_table_storage(splits[split].data.table), name=name, place=lambda row: f"{name}, row {row}"
    )


def _describe(data: Data) -> str:
    return f"data set {data.dataset!r}" + (f", subset {data.subset!r}" if data.subset else "")
