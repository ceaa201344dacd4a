"""Columns of Arrow tables: categories, numbers, rows of features, and targets that are numbers or sets of labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedtrain.data.sources.base import Place
from fedtrain.data.sources.plain import is_numeric, named, require_utf8
from fedtrain.data.types import Labels
from fedtrain.errors import DataError
from fedtrain.progress import working

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A column as codes of its different values.

    Attributes:
        values: the different values, in any order: all integers or all strings.
        codes: shape (n,), each an index into ``values``.
    """

    values: Sequence[Any]
    codes: Labels

    def categories(self) -> tuple[Any, ...]:
        """Return the different values, sorted."""
        return tuple(sorted(self.values))

    def encode(self, categories: Sequence[Any], *, what: str, place: Place) -> Labels:
        """Return each record's index into the categories.

        Raises:
            DataError: a record's value is not one of them.
        """
        index = {value: code for code, value in enumerate(categories)}
        for code, value in enumerate(self.values):
            if value not in index:
                row = int(np.flatnonzero(self.codes == code)[0])
                raise DataError(f"{place(row)}: {what} {value!r} is not one of {_known(categories)}")
        lookup = np.array([index[value] for value in self.values], dtype=np.int64)
        return lookup[self.codes]


def label_categories(labels: Coded, *, place: Place) -> tuple[Any, ...]:
    """Return the classes of training labels: their different values, sorted.

    Raises:
        DataError: an integer label is negative, by which some data sets mark a missing label.
    """
    categories = labels.categories()
    first = categories[0]
    if isinstance(first, int) and first < 0:
        row = int(np.flatnonzero(labels.codes == list(labels.values).index(first))[0])
        raise DataError(f"{place(row)}: label {first} is negative; integer labels are 0 or more")
    return categories


def with_test_labels(categories: tuple[Any, ...], labels: Coded, *, place: Place) -> tuple[Any, ...]:
    """Return the classes of training labels, and after them those that test labels alone have.

    Raises:
        DataError: as `label_categories`.
    """
    return (*categories, *(value for value in label_categories(labels, place=place) if value not in categories))


def _known(categories: Sequence[Any]) -> str:
    return f"the {len(categories)} known: {some([repr(category) for category in categories])}"


def some(names: Sequence[str]) -> str:
    """Name the first of many."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def require_values(values: Any, *, column: str, place: Place) -> None:
    """Refuse missing values.

    Raises:
        DataError: there is one.
    """
    if values.null_count:
        row = pc.index(values.is_null(), value=True).as_py()
        raise DataError(f"{place(row)}, column {column!r}: the value is missing")


def is_categorical(kind: Any) -> bool:
    """Tell whether a plain type is read as categories when it is a feature."""
    return bool(pa.types.is_large_string(kind) or pa.types.is_boolean(kind) or pa.types.is_dictionary(kind))


def coded(values: Any, *, column: str, place: Place) -> Coded:
    """Read integers, strings or booleans as codes of their different values.

    Raises:
        DataError: a value is missing or not UTF-8, or the column has another type.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    require_values(values, column=column, place=place)
    kind = values.type
    if not pa.types.is_integer(kind) and not is_categorical(kind):
        raise DataError(
            f"{place(0)}, column {column!r} has type {named(kind)}; allowed: integers, strings and booleans"
        )
    if is_categorical(kind):
        values = values.cast(pa.large_string())
        require_utf8(values, what=lambda row: f"{place(row)}, column {column!r}")
    encoded = values.combine_chunks().dictionary_encode()
    return Coded(
        values=encoded.dictionary.to_pylist(), codes=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    )


def numbers(values: Any, *, column: str, place: Place) -> NDArray[np.float32]:
    """Read numbers.

    Raises:
        DataError: a value is missing, or not finite as a float32.
    """
    require_values(values, column=column, place=place)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        result: NDArray[np.float32] = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(result))
    if bad.size:
        row = int(bad[0])
        raise DataError(f"{place(row)}, column {column!r}: {values[row].as_py()} is not a finite 32-bit number")
    return result


MAX_CATEGORIES = 1000
"""A column of strings with more different values is text or an identifier, not a category."""


_ENOUGH = 20  # records of which different values say something
_SHARING = 3


def names_records(different: int, records: int) -> bool:
    """Tell whether values are identifiers and no categories: on average fewer than three records share one."""
    return records >= _ENOUGH and _SHARING * different > records


def numbers_records(lowest: float, highest: float, different: int, records: int) -> bool:
    """Tell whether whole numbers count the records from 0 or 1, in any order, as an index does."""
    return records >= _ENOUGH and different == records and lowest in {0, 1} and highest - lowest == records - 1


def refuse_identifiers(table: Any, columns: Sequence[str], *, name: str) -> None:
    """Refuse columns of categories that name records, where nobody asked for them as features.

    Args:
        table: the training records.
        columns: the columns that would become features.
        name: the files.

    Raises:
        DataError: there is one.
    """
    for column in columns:
        if is_categorical(table[column].type):
            different = pc.count_distinct(table[column]).as_py()
            if names_records(different, table.num_rows):
                raise DataError(
                    f"{name}, column {column!r} holds {different:,} different values in {table.num_rows:,} records: it "
                    "is text, or names the records, and is no feature; name the column of a text with text_column, or "
                    "the columns to use with feature_columns"
                )


@dataclass(frozen=True, kw_only=True)
class TableEncoding:
    """How columns become features, as the training data determines it.

    Attributes:
        columns: each column with its categories, one-hot encoded in this order, or ``None`` for a number.
    """

    columns: tuple[tuple[str, tuple[str, ...] | None], ...]

    @classmethod
    def fit(cls, table: Any, columns: tuple[str, ...], *, place: Place) -> Self:
        """Find the categories in the training data.

        Raises:
            DataError: a column is neither numbers nor categories.
        """
        found = []
        with working("finding the categories of columns", len(columns)) as done:
            for number, column in enumerate(columns, start=1):
                found.append((column, _categories(table[column], column, place)))
                done(number)
        return cls(columns=tuple(found))

    @property
    def categorical(self) -> tuple[str, ...]:
        """The columns of categories."""
        return tuple(column for column, categories in self.columns if categories is not None)

    def encode(self, table: Any, *, place: Place) -> NDArray[np.float32]:
        """Return the features, shape (n, features), dtype float32.

        Raises:
            DataError: a value is missing, not finite, or a category that the training data does not have.
        """
        width = sum(1 if categories is None else len(categories) for _, categories in self.columns)
        features = np.zeros((table.num_rows, width), dtype=np.float32)
        with working("decoding columns", len(self.columns)) as done:
            self._fill(features, table, place, done)
        return features

    def _fill(self, features: NDArray[np.float32], table: Any, place: Place, done: Callable[[int], None]) -> None:
        start = 0
        for number, (column, categories) in enumerate(self.columns, start=1):
            values = table[column]
            require_values(values, column=column, place=place)
            if (categories is None) != is_numeric(values.type):
                kind = "numbers" if categories is None else "categories"
                raise DataError(
                    f"{place(0)}, column {column!r} has type {named(values.type)}, but in the training data it holds "
                    f"{kind}"
                )
            if categories is None:
                features[:, start] = numbers(values, column=column, place=place)
                start += 1
            else:
                codes = coded(values, column=column, place=place).encode(
                    categories, what=f"column {column!r}, value", place=place
                )
                features[np.arange(len(codes)), start + codes] = 1
                start += len(categories)
            done(number)


def _categories(values: Any, column: str, place: Place) -> tuple[str, ...] | None:
    if is_numeric(values.type):
        return None
    require_values(values, column=column, place=place)
    if not is_categorical(values.type):
        raise DataError(
            f"{place(0)}, column {column!r} has type {named(values.type)}; features are numbers, strings or booleans; "
            "name the columns to use with feature_columns"
        )
    categories = coded(values, column=column, place=place).categories()
    if len(categories) > MAX_CATEGORIES:
        raise DataError(
            f"{place(0)}, column {column!r} holds {len(categories):,} different values, more than {MAX_CATEGORIES:,}: "
            "it is text, or an identifier, which is no feature; name the column of a text with text_column, or the "
            "columns to use with feature_columns"
        )
    return tuple(str(category) for category in categories)


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
    if not pa.types.is_large_list(values.type):
        raise DataError(
            f"{place(0)}, column {column!r} has type {named(values.type)}; labels are a column of lists of strings or "
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
                f"{place(0)}, column {column!r} has type {named(values.type)}; a label is a column of booleans, or "
                "of 0 and 1"
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
        raise DataError(
            f"{place(0)}, column {column!r} has type {named(values.type)}; a target that is a number is a number"
        )
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
