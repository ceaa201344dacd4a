"""Targets that are numbers or sets of labels, from Arrow columns and from arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedtrain.data.sources.categories import Coded, Place
from fedtrain.data.sources.columns import coded, is_numeric, numbers, require_values
from fedtrain.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LabelLists:
    """A column of lists of labels, as one row for each label of each record.

    Attributes:
        column: its name.
        records: how many records there are.
        rows: shape (labels of all records,), the record of each label.
        labels: the labels.
        place: names a record.
    """

    column: str
    records: int
    rows: NDArray[np.int64]
    labels: Coded
    place: Place

    def matrix(self, names: Sequence[Any]) -> NDArray[np.uint8]:
        """Return 1 where a record has a label and 0 elsewhere, shape (records, names).

        Raises:
            DataError: a label is not one of the names, or a record has one twice.
        """
        codes = self.labels.encode(names, what=f"column {self.column!r}, label", place=self._place)
        counts = np.zeros((self.records, len(names)), dtype=np.int64)
        np.add.at(counts, (self.rows, codes), 1)
        twice = np.argwhere(counts > 1)
        if len(twice):
            row, label = (int(index) for index in twice[0])
            raise DataError(f"{self.place(row)}, column {self.column!r}: label {names[label]!r} is there twice")
        return counts.astype(np.uint8)

    def _place(self, item: int) -> str:
        return self.place(int(self.rows[item]))


def label_lists(values: Any, *, column: str, place: Place) -> LabelLists:
    """Read a column of lists of strings or integers. An empty list is a record without labels.

    Raises:
        DataError: a list or a label in it is missing, or the column has another type.
    """
    if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
        raise DataError(
            f"{place(0)}, column {column!r} has type {values.type}; labels are a column of lists of strings or "
            "integers, or the boolean columns that data.label_columns names"
        )
    require_values(values, column=column, place=place)
    lists = values.combine_chunks()
    rows = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    items = pa.chunked_array([pc.list_flatten(lists)])
    labels = coded(items, column=column, place=lambda item: place(int(rows[item]) if len(rows) else 0))
    return LabelLists(column=column, records=len(lists), rows=rows, labels=labels, place=place)


def label_columns(table: Any, columns: Sequence[str], *, place: Place) -> NDArray[np.uint8]:
    """Read columns of booleans, or of 0 and 1, each one label, as a matrix of shape (records, columns).

    Raises:
        DataError: a value is missing, or neither 0 nor 1, or a column has another type.
    """
    matrix = np.zeros((table.num_rows, len(columns)), dtype=np.uint8)
    for index, column in enumerate(columns):
        values = table[column]
        if not pa.types.is_boolean(values.type) and not pa.types.is_integer(values.type):
            raise DataError(
                f"{place(0)}, column {column!r} has type {values.type}; a label is a column of booleans, or of 0 and 1"
            )
        require_values(values, column=column, place=place)
        found = values.cast(pa.int64()).to_numpy()
        matrix[:, index] = zeros_and_ones(found, partial(_of_column, column, place))
    return matrix


def _of_column(column: str, place: Place, index: Sequence[int]) -> str:
    return f"{place(index[0])}, column {column!r}"


def number_column(values: Any, *, column: str, place: Place) -> NDArray[np.float32]:
    """Read a column of numbers as targets.

    Raises:
        DataError: a value is missing, or not finite as a float32, or the column has another type.
    """
    if not is_numeric(values.type):
        raise DataError(f"{place(0)}, column {column!r} has type {values.type}; a target that is a number is a number")
    return without_negative_zero(numbers(values, column=column, place=place))


def without_negative_zero(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the numbers with 0 for -0, so that one data set has one digest."""
    return values + np.float32(0)


def zeros_and_ones(values: NDArray[Any], place: Callable[[Sequence[int]], str]) -> NDArray[np.uint8]:
    """Return values that are all 0 or 1 as uint8.

    Raises:
        DataError: one is not; ``place`` names it from its indices.
    """
    bad = np.argwhere((values != 0) & (values != 1))
    if len(bad):
        index = tuple(int(number) for number in bad[0])
        raise DataError(f"{place(index)}: {values[index]} is neither 0 nor 1, by which a record has a label or not")
    return values.astype(np.uint8)
