"""Several Parquet files as one table, whose columns mean the same in every file.

The metadata of the Hugging Face hub names the numbers of a column: 0 is "cat", 1 is "dog". Each file has names of its
own, and the number 0 of one may be the number 1 of another. Numbers are therefore brought into the order of the first
file, and files whose columns cannot be compared are refused.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedtrain.errors import DataError


def hub_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Return the names that the metadata of the hub gives to the integers of a column, or of a column of lists."""
    kind = schema.field(column).type
    numbers = kind.value_type if _holds_lists(kind) else kind
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None or not pa.types.is_integer(numbers):
        return None
    try:
        feature = json.loads(text)["info"]["features"][column]
        if isinstance(feature, list):  # a list, as datasets wrote it before version 4
            (feature,) = feature
        feature = feature.get("feature", feature)
        return tuple(str(name) for name in feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def require_same_types(schema: Any, columns: Sequence[str], *, name: str, first: Any, first_name: str) -> None:
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


def renumbered(table: Any, *, name: str, first: Any, first_name: str) -> Any:
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
        numbers = _in_lists(values, order) if _holds_lists(values.type) else _in_order(values, order)
        table = table.set_column(index, column, numbers)
    return table


def concatenated(tables: Sequence[Any], columns: Sequence[str]) -> Any:
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


def _holds_lists(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
