"""Columns of categories: labels, owners and categorical features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtrain.data.types import Labels
from fedtrain.errors import DataError

Place = Callable[[int], str]
"""Says where a record is, from its row: the file and the row in it."""

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
                raise DataError(f"{place(row)}: {what} {value!r} is not one of {_some(categories)}")
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


def _some(categories: Sequence[Any]) -> str:
    shown = ", ".join(repr(category) for category in categories[:_SHOWN])
    more = len(categories) - _SHOWN
    return f"the {len(categories)} known: {shown}" + (f" and {more} more" if more > 0 else "")
