"""What private training asks of a source of randomness."""

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor


class RandomSource(Protocol):
    """Draws the noise and the samples of private training. Each call draws anew.

    Attributes:
        name: ``seeded`` or ``secure``, as the report says it.
    """

    name: str

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return independent Gaussians of mean 0 and standard deviation ``std``.

        Raises:
            ValueError: ``std`` is negative or not finite.
        """

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask, bool of shape (count,) on the CPU, each entry true on its own with ``probability``.

        Raises:
            ValueError: ``probability`` is outside of [0, 1].
        """


def check_std(std: float) -> None:
    """Raise ``ValueError`` for a standard deviation that is negative or not finite."""
    if not (isfinite(std) and std >= 0):
        raise ValueError(f"a standard deviation of {std} is not allowed: it is finite and not negative")


def check_probability(probability: float) -> None:
    """Raise ``ValueError`` for a probability outside of [0, 1]."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability of {probability} is not allowed: it is in [0, 1]")
