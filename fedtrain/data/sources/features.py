"""Columns of a table to one matrix of features."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedtrain.data.sources.categories import Place
from fedtrain.data.sources.columns import coded, is_categorical, is_numeric, numbers
from fedtrain.errors import DataError

MAX_CATEGORIES = 1000
"""A column of strings with more different values is text or an identifier, not a category."""


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
        return cls(columns=tuple((column, _categories(table[column], column, place)) for column in columns))

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
        start = 0
        for column, categories in self.columns:
            values = table[column]
            if (categories is None) != is_numeric(values.type):
                kind = "numbers" if categories is None else "categories"
                raise DataError(
                    f"{place(0)}, column {column!r} has type {values.type}, but in the training data it holds {kind}"
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
        return features


def _categories(values: Any, column: str, place: Place) -> tuple[str, ...] | None:
    if is_numeric(values.type):
        return None
    if not is_categorical(values.type):
        raise DataError(
            f"{place(0)}, column {column!r} has type {values.type}; features are numbers, strings or booleans; "
            "name the columns to use with feature_columns"
        )
    categories = coded(values, column=column, place=place).categories()
    if len(categories) > MAX_CATEGORIES:
        raise DataError(
            f"{place(0)}, column {column!r} holds {len(categories):,} different values, more than {MAX_CATEGORIES:,}: "
            "it is text, which is not supported, or an identifier, which is no feature; "
            "name the columns to use with feature_columns"
        )
    return tuple(str(category) for category in categories)
