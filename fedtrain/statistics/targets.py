"""Targets as numbers that least squares fits: within a ball of radius 1, and back.

Each kind is centred by a public constant and divided by its largest norm, so that no target is longer than 1.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fedtrain.statistics.bounds import check_bounds

_LEAST = 0.01
"""The least probability that an output stands for: a fit is a number of any size, and its logarithm may be none."""


class TargetCode(Protocol):
    """A kind of target.

    Attributes:
        columns: how many numbers stand for a target.
    """

    @property
    def columns(self) -> int:
        """How many numbers stand for a target."""

    @property
    def scale(self) -> float:
        """What a unit of these numbers is in the unit of the target."""

    @property
    def centre(self) -> float:
        """What zero is in the unit of the target."""

    def encode(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the numbers of each target, shape (n, columns), each row of a norm of at most 1."""

    def outputs(self, fitted: Tensor) -> Tensor:
        """Return fitted targets, in their unit, as what the metrics of the task take."""


@dataclass(frozen=True, kw_only=True)
class ClassCode:
    """A class as its indicator less 1 / classes, of norm ``sqrt(1 - 1 / classes)``. The fit estimates probabilities."""

    columns: int

    @property
    def scale(self) -> float:
        """The norm of a centred indicator."""
        return sqrt(1 - 1 / self.columns)

    @property
    def centre(self) -> float:
        """The probability of a class where nothing is known."""
        return 1 / self.columns

    def encode(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the numbers of int64 class numbers of shape (n,)."""
        return (functional.one_hot(targets, self.columns).to(dtype) - self.centre) / self.scale

    def outputs(self, fitted: Tensor) -> Tensor:
        """Return logarithms of probabilities; below one in a hundred they are that of one in a hundred."""
        return fitted.clamp(min=_LEAST).log()


@dataclass(frozen=True, kw_only=True)
class LabelsCode:
    """A set of labels as 1/2 for each that is there and -1/2 for each other, of norm ``sqrt(labels) / 2``."""

    columns: int

    @property
    def scale(self) -> float:
        """The norm of a centred row."""
        return sqrt(self.columns) / 2

    @property
    def centre(self) -> float:
        """The probability of a label where nothing is known."""
        return 0.5

    def encode(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the numbers of labels of 0 and 1, shape (n, labels)."""
        return (targets.to(dtype) - self.centre) / self.scale

    def outputs(self, fitted: Tensor) -> Tensor:
        """Return logits of probabilities, which are kept between one and 99 in a hundred."""
        return fitted.clamp(min=_LEAST, max=1 - _LEAST).logit()


@dataclass(frozen=True, kw_only=True)
class NumberCode:
    """A number within public bounds, as where it lies between them, from -1 to 1. One outside counts as the bound.

    Raises:
        ConfigError: they are not finite, or not in order.
    """

    lower: float
    upper: float
    columns: int = 1

    def __post_init__(self) -> None:
        check_bounds("the target", self.lower, self.upper)

    @property
    def scale(self) -> float:
        """Half the distance of the bounds."""
        return self.upper / 2 - self.lower / 2

    @property
    def centre(self) -> float:
        """The middle between the bounds."""
        return self.lower / 2 + self.upper / 2

    def encode(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the numbers of float32 targets of shape (n,)."""
        return ((targets.to(dtype) - self.centre) / self.scale).nan_to_num(0.0).clamp(-1, 1)[:, None]

    def outputs(self, fitted: Tensor) -> Tensor:
        """Return the numbers as they are."""
        return fitted
