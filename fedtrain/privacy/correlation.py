"""Noise that is correlated over the rounds of a run: the banded inverse square root, its sensitivity and its error.

A model after t rounds is a sum of t noisy sums. Noise that is drawn anew in each round adds up in it; noise of which a
part is taken back in later rounds does not. Let A be the lower triangular matrix of ones, which adds up rounds, and X
the clipped sums, a row for each round. Released is ``X + C^-1 Z`` with a lower triangular C and independent Gaussians
Z. That is a function of ``C X + Z``, a single Gaussian mechanism over the whole run, so that all of a run has the
privacy of one release whose sensitivity is how far one client can move ``C X``; and it stays so where X depends on what
was released before (Denisov et al. 2022, "Improved Differential Privacy for SGD via Optimal Private Linear Operators on
Adaptive Streams", theorem 2.1).

*Which C.* The square root of A is a Toeplitz matrix, with the coefficients of ``(1 - x)^(-1/2)`` in its first column.
Here C^-1 has the first p coefficients of ``(1 - x)^(1/2)``, namely 1, -1/2, -1/8, -1/16, ..., and zeros below (BISR:
Kalinin, McKenna, Upadhyay and Lampert 2025, "Back to Square Roots"). So the noise of a round takes no more than the
draws of the last p rounds, and C is the inverse of that matrix, whole and exact.

*Sensitivity.* A client moves row t of X by a vector of norm at most the clipping norm where it takes part in round t,
and not elsewhere. It takes part in at most k rounds, b apart or more. The entries of C are not negative, so that moving
all rows the same way is the worst; they fall down the column, so that the earliest and nearest rounds, 0, b, 2b, ...,
are the worst of all (Kalinin and Lampert 2024, "Banded Square Root Matrix Factorization for Differentially Private
Model Training", theorem 2). So the sensitivity of j rounds is the norm of a sum of columns of C,
``s_j = |C_0 + C_b + ... + C_((j-1)b)|``. That the column falls and is not negative is checked whenever a sensitivity is
computed.

*Shares.* A client that took part in j <= k rounds is charged j Gaussian mechanisms of noise multiplier z. They compose
to one of noise multiplier ``z / sqrt(j)``, and what happened is one of ``v / s_j``, where v is the deviation of Z over
the clipping norm. With ``v = z sqrt(max_j s_j^2 / j)`` the charge is never below what happened. At j = k it is within
0.2 per cent of it, and the whole run costs what one Gaussian mechanism of noise multiplier ``z / sqrt(k)`` costs.

Everything here is a function of public constants.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fedtrain.errors import PrivacySpecError

Vector = NDArray[np.float64]

MOST_ROUNDS = 20_000
"""Beyond it the arithmetic here, which every client repeats, takes more than seconds."""

_UNIT = 2.0**-53


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How the noise of a run is correlated.

    Attributes:
        rounds: the rounds of the run.
        separation: rounds from one participation of a client to its next, at least.
        bands: draws that the noise of one round is made of, at most: its own, and those of the rounds before.
    """

    rounds: int
    separation: int
    bands: int

    @classmethod
    def of(cls, *, rounds: int, separation: int) -> "Correlation":
        """Return the correlation for a separation: as many bands as that.

        The error over the rounds (``mean_error``) is within 7 per cent of that of the best number of bands, for 20 to
        2,000 rounds and separations of 2 to 100. More bands take more memory, and soon make it worse: C then has longer
        columns, and a client moves more of C X with its later participations.
        """
        return cls(rounds=rounds, separation=separation, bands=min(separation, rounds))

    @property
    def most_participations(self) -> int:
        """Rounds that one client can take part in at most."""
        return -(-self.rounds // self.separation)

    def check(self, participations: int) -> None:
        """Refuse what no run can have.

        Args:
            participations: rounds that one client takes part in at most.

        Raises:
            PrivacySpecError: it is that; the arithmetic is shown.
        """
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise PrivacySpecError(
                f"correlated noise over {self.rounds} rounds is not allowed: it is for 1 to {MOST_ROUNDS}"
            )
        if not 2 <= self.separation <= self.rounds:  # noqa: PLR2004 - 1 is no separation
            raise PrivacySpecError(
                f"separation = {self.separation} is not allowed: it is from 2 to the rounds of the run, {self.rounds}"
            )
        if not 1 <= self.bands <= self.rounds:
            raise PrivacySpecError(
                f"bands = {self.bands} are not allowed: they are from 1 to the rounds of the run, {self.rounds}"
            )
        if not 1 <= participations <= self.most_participations:
            raise PrivacySpecError(
                f"a client that takes part in {participations} rounds is not allowed: with {self.separation} rounds "
                f"from one to its next, {self.rounds} rounds have room for 1 to {self.most_participations}"
            )


def inverse_column(bands: int) -> Vector:
    """Return the first column of C^-1, as far as it is not zero: coefficients of ``(1 - x)^(1/2)``, shape (bands,).

    >>> inverse_column(4)
    array([ 1.    , -0.5   , -0.125 , -0.0625])
    """
    column = np.ones(bands)
    for place in range(1, bands):
        column[place] = column[place - 1] * (2 * place - 3) / (2 * place)
    return column


def inverted(inverse: Vector, rounds: int) -> Vector:
    """Return the first column of C, shape (rounds,), for a Toeplitz C^-1 whose first column begins with 1.

    >>> inverted(inverse_column(2), 4)
    array([1.   , 0.5  , 0.25 , 0.125])
    """
    column = np.zeros(rounds)
    column[0] = 1.0
    for place in range(1, rounds):
        reach = min(len(inverse) - 1, place)
        column[place] = -np.dot(inverse[1 : reach + 1], column[place - reach : place][::-1])
    return column


def squared_sensitivities(column: Vector, *, separation: int, participations: int) -> Vector:
    """Return s_1^2, ..., s_k^2: how far a client can move C X in so many rounds, for a clipping norm of 1.

    Args:
        column: the first column of C, a lower triangular Toeplitz matrix with a row for each round.
        separation: rounds from one participation to the next, at least.
        participations: k, at least 1; the last of them begins before the run ends.

    Raises:
        ValueError: an entry of the column is negative, or larger than the one before: then other rounds may be worse
            than the earliest.
    """
    if (column < 0).any() or (np.diff(column) > 0).any():
        raise ValueError("the worst participations are not known: the column of C is negative or rises somewhere")
    moved, found = np.zeros(len(column)), np.zeros(participations)
    for place in range(participations):
        start = place * separation
        moved[start:] += column[: len(column) - start]
        found[place] = np.dot(moved, moved)
    return found


@lru_cache(maxsize=64)
def inflation(correlation: Correlation, participations: int) -> float:
    """Return ``max_j sqrt(s_j^2 / j)``: the deviation of the draws over that of independent noise of equal epsilon.

    It is rounded up by more than the sums here can be rounded down by: all their terms are positive.

    Args:
        correlation: how the noise is correlated.
        participations: k, the rounds that one client takes part in at most.

    Raises:
        PrivacySpecError: no run can have them.
    """
    correlation.check(participations)
    column = inverted(inverse_column(correlation.bands), correlation.rounds)
    squares = squared_sensitivities(column, separation=correlation.separation, participations=participations)
    margin = 1 + 8 * correlation.rounds * (correlation.bands + 1) * _UNIT
    return float(sqrt((squares / np.arange(1, participations + 1)).max() * margin))


def round_spread(correlation: Correlation) -> float:
    """Return the deviation of the noise of one round over that of the draws, in a round that has all bands."""
    return float(np.linalg.norm(inverse_column(correlation.bands)))


def errors(correlation: Correlation) -> Vector:
    """Return the deviation of the noise in the sum of the first t rounds over that of the draws, for each t from 1.

    A draw enters that sum with the sum of the first coefficients of C^-1, as many as there are rounds since.
    """
    coefficients = np.zeros(correlation.rounds)
    coefficients[: correlation.bands] = inverse_column(correlation.bands)
    return np.asarray(np.sqrt(np.cumsum(np.cumsum(coefficients) ** 2)))


def mean_error(correlation: Correlation, participations: int) -> float:
    """Return the error of a model over that with independent noise at equal epsilon, both as they are over the rounds.

    The error is the noise in the model, its mean square over the rounds of the run. Below 1 the correlation helps.
    """
    own = inflation(correlation, participations) * sqrt(float(np.mean(errors(correlation) ** 2)))
    return own / sqrt((correlation.rounds + 1) / 2)
