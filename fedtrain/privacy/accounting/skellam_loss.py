"""The privacy loss of Skellam noise in one dimension, for the second opinion: computed, not bounded.

The record that is removed changes one coordinate by the whole L2 bound. That is one of the contributions that the
bounds of the event allow, so that the mechanism spends at least as much. It says nothing of contributions that are
spread over many coordinates: those are for the claim. On a fine grid all of one L2 norm spend the same, but for what
`fedtrain.privacy.accounting.integers` bounds. Nothing is shared with that module: probabilities are Bessel functions,
and losses are their ratios.
"""

from dataclasses import dataclass, replace
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from fedtrain.privacy.events import SampledSkellam

Floats = NDArray[np.float64]

# Probabilities by a continued fraction up to this variance, and by an expansion above, which errs by less than 1e-14.
_EXPANDED = 1e4

# Standard deviations on each side, and outputs. Where there are more, every k-th stands for k.
_WIDTH, POINTS = 14.0, 2**15


def log_probabilities(outputs: Floats, variance: int) -> Floats:
    """Return the logarithms of the probabilities of whole numbers under Skellam noise of a variance: exp(-m) I_x(m).

    For large m it is the uniform expansion of the Bessel function to three terms (Olver et al. 2010, 10.41.3), in
    powers of 1 / w, where w^2 = x^2 + m^2. For others, ratios of neighbours follow from that of the next ones, as
    I_(x-1) = I_(x+1) + 2 x I_x / m, and all sum to 1.
    """
    x = np.abs(outputs)
    if variance <= _EXPANDED:
        return _of_ratios(int(x.max()), variance)[x.astype(np.int64)]
    w = np.hypot(x, variance)
    square = (x / w) ** 2
    terms = (
        (3 - 5 * square) / (24 * w)
        + (81 + square * (385 * square - 462)) / (1152 * w**2)
        + (30375 + square * (square * (765765 - 425425 * square) - 369603)) / (414720 * w**3)
    )
    exponent = x**2 / (w + variance) - x * np.arcsinh(x / variance)
    return cast("Floats", exponent - np.log(2 * np.pi * w) / 2 + np.log1p(terms))


def _of_ratios(most: int, variance: int) -> Floats:
    """Return those of 0 to ``most``: shape (most + 1,)."""
    last = most + int(2 * _WIDTH * variance**0.5) + 50  # where the ratio that is begun with no longer matters
    ratios, ratio = np.empty(last), 0.0
    for x in range(last, 0, -1):
        ratio = 1 / (2 * x / variance + ratio)
        ratios[x - 1] = ratio
    logs = np.cumsum(np.log(ratios))
    return cast("Floats", np.concatenate([[0.0], logs])[: most + 1] - np.log1p(2 * np.exp(logs).sum()))


@dataclass(frozen=True, kw_only=True)
class SkellamLoss:
    """The privacy loss of one step, as Opacus takes a privacy random variable.

    Attributes:
        losses: shape (outputs,), rising: the losses of the outputs.
        probabilities: shape (outputs,): of the outputs with the record.
        sample_rate: the rate.
        noise_multiplier: of the Gaussian whose losses are about as large.
    """

    losses: Floats
    probabilities: Floats
    sample_rate: float
    noise_multiplier: float

    @classmethod
    def of(cls, event: SampledSkellam) -> Self:
        """Return the loss of one step of an event."""
        width = int(_WIDTH * event.variance**0.5 + 2 * _WIDTH)
        stride = max(1, (2 * width + event.l2) // POINTS)
        outputs = np.arange(-width, width + event.l2 + 1, stride, dtype=np.float64)
        without = log_probabilities(outputs, event.variance)
        ratio = log_probabilities(outputs - event.l2, event.variance) - without
        rate = event.sampling_rate
        losses = ratio if rate == 1 else np.logaddexp(np.log1p(-rate), np.log(rate) + ratio)
        return cls(
            losses=losses,
            probabilities=stride * np.exp(without + losses),
            sample_rate=rate,
            noise_multiplier=event.noise_multiplier,
        )

    def within(self, least: float, most: float) -> Self:
        """Return the losses in an interval, with probabilities that add up to 1."""
        kept = (self.losses >= least) & (self.losses <= most)
        probabilities = self.probabilities[kept]
        return replace(self, losses=self.losses[kept], probabilities=probabilities / probabilities.sum())

    def cdf(self, losses: Floats) -> Floats:
        """Return the probabilities of losses up to these."""
        below = np.concatenate([[0.0], np.cumsum(self.probabilities)])
        return cast("Floats", below[np.searchsorted(self.losses, losses, side="right")])

    def mean(self) -> float:
        """Return the mean loss."""
        return float(self.losses @ self.probabilities)
