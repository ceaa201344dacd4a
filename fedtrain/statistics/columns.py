"""What one record adds to the statistics of columns: one vector of norm 1 at most.

Every number of a column is brought to ``t = (value - middle) / half`` by its public bounds; a value outside of them
counts as the bound. A record adds, each times the same weight w:

- 1, to the count of records;
- for each column ``t``, to its mean, and ``2 t^2 - 1``, to its variance: the square less what centres it, so that both
  are within -1 and 1, and the noise is half of that on ``t^2``;
- for each column with bins an indicator of its bin, and of the classes likewise.

Each of these has a norm of 1 at most, and all reach 1 together for a record at its bounds. So with k of them ``w = 1 /
sqrt(k)`` is the largest weight for which the vector is no longer than 1: they share the norm in equal parts.
"""

from dataclasses import dataclass
from math import isfinite, nan, sqrt

import torch
from torch import Tensor
from torch.nn import functional

from fedtrain.errors import ConfigError
from fedtrain.statistics.bounds import check_bounds


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers with public bounds.

    Attributes:
        name: its name.
        lower: what none of its values should be below; those that are count as the bound.
        upper: likewise above.

    Raises:
        ConfigError: the bounds are not finite, or not in order.
    """

    name: str
    lower: float
    upper: float

    def __post_init__(self) -> None:
        check_bounds(f"column {self.name!r}", self.lower, self.upper)

    @property
    def middle(self) -> float:
        """The middle between the bounds."""
        return self.lower / 2 + self.upper / 2

    @property
    def half(self) -> float:
        """Half the distance of the bounds."""
        return self.upper / 2 - self.lower / 2


def parse_column(text: str) -> Column:
    """Return the column of a text such as ``age: 17 to 90``.

    >>> parse_column("age: 17 to 90")
    Column(name='age', lower=17.0, upper=90.0)

    Raises:
        ConfigError: it is no such text, or the bounds are none.
    """
    name, lower, upper = _split(text, " to ")
    if not name:
        raise ConfigError(
            f"{text!r} is no column with its bounds: write the name, a colon, and the public bounds, for example "
            "'age: 17 to 90'"
        )
    return Column(name=name, lower=lower, upper=upper)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a column is standardised by: public constants, such as an estimated mean and deviation.

    Attributes:
        name: of the column.
        centre: what is subtracted.
        unit: what the rest is divided by; finite and above 0.
    """

    name: str
    centre: float
    unit: float

    def __str__(self) -> str:
        """Return the text that `parse_scaling` reads."""
        return f"{self.name}: {self.centre:.6g} by {self.unit:.6g}"


def parse_scaling(text: str) -> Scaling:
    """Return the scaling of a text such as ``age: 48.9 by 18``.

    >>> parse_scaling("age: 48.9 by 18")
    Scaling(name='age', centre=48.9, unit=18.0)

    Raises:
        ConfigError: it is no such text, or a number in it is not finite, or the unit not above 0.
    """
    name, centre, unit = _split(text, " by ")
    if not (name and isfinite(centre) and isfinite(unit) and unit > 0):
        raise ConfigError(
            f"{text!r} is no scaling of a column: write the name, a colon, what to subtract, and a finite number above "
            "0 to divide by, for example 'age: 48.9 by 18'"
        )
    return Scaling(name=name, centre=centre, unit=unit)


def _split(text: str, word: str) -> tuple[str, float, float]:
    """Return a name and two numbers around a word; an empty name where the text is not of this form."""
    name, _, numbers = text.rpartition(":")
    first, _, second = numbers.partition(word)
    try:
        return name.strip(), float(first), float(second)
    except ValueError:
        return "", nan, nan


@dataclass(frozen=True, kw_only=True)
class ColumnLayout:
    """How the statistics of a record are laid out in a vector; all of it is public.

    Attributes:
        columns: the columns of numbers, in their order.
        bins: bins of equal width of each column's histogram; 0 for none.
        classes: how many classes are counted; 0 for none.
    """

    columns: tuple[Column, ...]
    bins: int = 0
    classes: int = 0

    @property
    def parts(self) -> int:
        """How many statistics share the norm of a vector."""
        return 1 + len(self.columns) * (2 + (self.bins > 0)) + (self.classes > 0)

    @property
    def weight(self) -> float:
        """The weight of each statistic in a vector."""
        return 1 / sqrt(self.parts)

    @property
    def size(self) -> int:
        """The numbers of a vector."""
        return 1 + len(self.columns) * (2 + self.bins) + self.classes

    def vectors(self, values: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return the vector of each record, shape (n, size): count, means, squares, histograms, classes.

        Args:
            values: floating point of shape (n, columns). One that is not a number counts as the middle of its bounds.
            classes: int64 of shape (n,); ``None`` where they are not counted.
        """
        middles, halves = (
            values.new_tensor([getattr(column, name) for column in self.columns]) for name in ("middle", "half")
        )
        places = ((values - middles) / halves).nan_to_num(0.0, posinf=1.0, neginf=-1.0).clamp(-1, 1)
        found = [places.new_ones((len(places), 1)), places, 2 * places.square() - 1]
        if self.bins:
            bins = ((places + 1) * (self.bins / 2)).long().clamp(max=self.bins - 1)
            found.append(functional.one_hot(bins, self.bins).to(places.dtype).flatten(1))
        if classes is not None:
            found.append(functional.one_hot(classes, self.classes).to(places.dtype))
        return torch.cat(found, dim=1) * self.weight
