"""Data sets of the Hugging Face hub, by way of its library."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedtrain.config import Data
from fedtrain.data.sources.arrow import Records, Roles, decode_tables, roles
from fedtrain.data.sources.base import Decoded, path_of, require_records
from fedtrain.data.sources.metadata import class_names_of, index_columns
from fedtrain.data.sources.parquet import (
    Layouts,
    common_kind,
    index_of,
    layouts_of,
    require_same_columns,
    taken_unasked,
)
from fedtrain.data.sources.plain import plain, plain_type
from fedtrain.errors import DataError
from fedtrain.progress import working


def decode_hub(data: Data) -> Decoded:
    """Read the splits "train" and, unless ``test_fraction`` is set, "test"; downloads what is not on this machine.

    Raises:
        DataError: the data set is unknown, cannot be downloaded, lacks a split, is malformed, or is a folder of Parquet
            files whose names of classes differ.
    """
    assert data.dataset is not None  # Data is validated
    folder = path_of(data.dataset)
    name = str(folder) if folder.is_dir() else data.dataset
    if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        raise DataError(
            f"{folder} was written by save_to_disk of the datasets library, and is not in the hub's layout; write "
            'each split with to_parquet, and use source = "parquet"'
        )
    import datasets  # noqa: PLC0415 - it takes a second, which files on this machine need not pay

    files: list[Path] = []
    try:
        if folder.is_dir():
            found = datasets.load_dataset_builder(name, name=data.subset).config.data_files or {}
            used = ["train"] if data.test_fraction is not None else ["train", "test"]
            files = [Path(file) for split in used for file in found.get(split, ()) if Path(file).suffix == ".parquet"]
        layouts = _checked_folder(files, data)
        with working(f"loading {_describe(data)} with the datasets library"):
            splits = datasets.load_dataset(name, name=data.subset)
    except DataError:
        raise
    except Exception as error:  # network, hub and builders raise errors of many types
        cause = error.__cause__ or error  # of an error "while generating the dataset"
        raise DataError(
            f'{_describe(data)} cannot be loaded: {type(cause).__name__}: {cause}; source = "hub" downloads the data '
            'set by name: check the name and the network, or use source = "parquet" with files on this machine'
        ) from error
    train = _split(data, splits, "train")
    index = index_of(layouts) | index_columns(train.schema)
    role = roles(train.schema, data, name=_named(data, "train"), left_out=index)
    test = None if data.test_fraction is not None else _split(data, splits, "test")
    measured = tuple(column for column in role.columns if column != role.owner or column in role.labels)
    if test is not None and (absent := [column for column in measured if column not in test.column_names]):
        raise DataError(f"{_named(data, 'test')}: there is no column {absent[0]!r}")
    records = _records(train, role.columns, role, _named(data, "train"))
    testing = None if test is None else _records(test, measured, role, _named(data, "test"))
    _require_same_names(layouts, role, loaded=records)
    return decode_tables(records, testing, role, class_names=data.class_names)


def _checked_folder(files: Sequence[Path], data: Data) -> Layouts:
    """Return the layouts of files that the datasets library is about to read by the columns and types of the first.

    Raises:
        DataError: columns, or what they hold, differ between files.
    """
    layouts = layouts_of(files)
    if files:
        index = index_of(layouts)
        role = roles(layouts[files[0]].schema, data, name=str(files[0]), left_out=index)
        measured = [column for column in role.columns if column != role.owner or column in role.labels]
        for file in files:
            require_same_columns(file, files[0], layouts, measured, taken_unasked(role, data, index))
        for column in measured:
            kinds = [plain_type(layouts[file].kind(column), coded=column in role.coded) for file in files]
            common_kind(column, kinds, files, layouts, role)
    return layouts


def _require_same_names(layouts: Layouts, role: Roles, *, loaded: Records) -> None:
    """Refuse files whose names of classes are not those by which the datasets library has read their numbers."""
    for column in role.columns:
        names = {file: each.class_names.get(column) for file, each in layouts.items() if column in each.columns}
        used = loaded.class_names.get(column)
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


def _split(data: Data, splits: Any, split: str) -> Any:
    """Return the table of a split, with the images that lie in files of their own."""
    if split not in splits:
        raise DataError(
            f"{_describe(data)} has no split {split!r}; its splits are: {', '.join(splits)}"
            + ("; set test_fraction to hold a part of the training records out" if split == "test" else "")
        )
    from datasets.table import embed_table_storage  # noqa: PLC0415

    require_records(len(splits[split]), _named(data, split))
    return embed_table_storage(splits[split].data.table)


def _records(table: Any, wanted: Sequence[str], role: Roles, name: str) -> Records:
    held = {}
    for column in wanted:
        values = table[column]
        kind = plain_type(values.type, coded=column in role.coded)
        held[column] = plain(values, kind, what=f"{name}, column {column!r}")
    return Records(
        table=pa.table(held),
        class_names=class_names_of(table.schema),
        name=name,
        place=lambda row: f"{name}, row {row}",
    )


def _named(data: Data, split: str) -> str:
    return f"{_describe(data)}, split {split!r}"


def _describe(data: Data) -> str:
    return f"data set {data.dataset!r}" + (f", subset {data.subset!r}" if data.subset else "")
