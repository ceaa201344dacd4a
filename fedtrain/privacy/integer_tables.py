"""Tables of the integer noise: cumulative probabilities in 127 bits, computed with whole numbers alone.

A value is made by inversion. A table has one threshold for each magnitude k below ``most``,

    T[k] = floor(2^127 P(|X| <= k)),  at most 2^127 - 1,

and a uniform integer U of 127 bits becomes the number of thresholds that are at most U. So the magnitude drawn is at
most k with probability T[k] / 2^127, exactly.

How far that is from the true distribution. Capping the true magnitude at ``most`` moves P(|X| > most), at most 2^-128
(`reach`). Between two distributions on 0 to ``most`` the total variation distance is at most the sum of the differences
of their cumulative probabilities, of which there are ``most``. Each is below (1 + 2^-8) 2^-127: a unit for rounding
down or for the cap, and the errors computed below. Together that is less than (most + 1) 2^-126, which
`IntegerNoise.distance` states, and which is below 2^-105 at the largest deviation that is allowed.

The weights w[k], proportional to P(X = k), are computed up to a magnitude N below 2^21, beyond which there is less than
2^-168. Every cumulative probability has the errors of sums of weights.

Discrete Gaussian (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy", definition 1).
w[k + 1] = w[k] r^(2k + 1) with r = exp(-1 / (2 sigma^2)), in units of 2^-224, rounded down. The series gives r to 2^8
units. So the powers of r, made by k products, have errors of at most 2^10 (k + 1) units, the weights of 2^10 (k + 1)^2,
and their sum one of 2^10 (N + 1)^3. The true sum is at least 2^224 units. So a cumulative probability is wrong by less
than 2^-148.

Skellam (Skellam 1946, "The frequency distribution of the difference between two Poisson variates belonging to different
populations": P(X = k) = exp(-mu) I_k(mu)). By Miller's backward recurrence: w[k - 1] = w[k + 1] + 2k w[k] / mu from
w[N + 1] = 0 and w[N] = 2^192, normalised by the sum. The recurrence has two solutions, I_k and (-1)^k K_k (DLMF
10.29.1). So the sequence is a multiple of I_k plus one of (-1)^k K_k that cancels I_(N+1). As K_k grows with k, the
latter is nowhere larger than I_(N+1): in probabilities 2^-168 each, and 2^-146 for all together. Rounding down at one
step is a start of the recurrence of its own, and as all terms are positive, it changes no later weight by a larger part
than it was of its own weight. The smallest weight is w[N - 1], above 2^179, so that all steps change less than a part
of 2^-158.
"""

from collections.abc import Sequence
from itertools import accumulate, islice
from math import ceil, log, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["skellam", "discrete-gaussian"]

# Bits of a threshold: 63 are compared first, and where they are equal 64 more.
BITS = 127
_CAPPED, _SUMMED = 128, 168
_FRACTION = 224
_SMALLEST = 1 << 192


def reach(kind: Kind, variance: float, bits: int = _CAPPED) -> int:
    """Return a magnitude beyond which the distribution has a probability of at most ``2^-bits``.

    By Chernoff's bound. The discrete Gaussian is sub-Gaussian with its parameter: its moment generating function is at
    most exp(t^2 sigma^2 / 2), because a Gaussian summed over shifted integers is largest without a shift. That of
    Skellam is exp(mu (cosh t - 1)), and cosh t - 1 is at most (t^2 / 2) / (1 - t / 3), which gives Bernstein's bound.
    """
    cost = (bits + 1) * log(2)
    if kind == "discrete-gaussian":
        return ceil(sqrt(2 * cost * variance))
    return ceil(cost / 3 + sqrt(cost * cost / 9 + 2 * cost * variance))


def thresholds(kind: Kind, variance: float) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the thresholds of the magnitudes 0 to ``reach(kind, variance) - 1``, which ascend.

    Returns:
        The upper 63 bits of each, int64, and the lower 64 bits, uint64, both of shape (most,).
    """
    count = reach(kind, variance)
    weights = (_gaussian if kind == "discrete-gaussian" else _skellam)(variance, reach(kind, variance, _SUMMED))
    total = 2 * sum(weights) - weights[0]
    below = accumulate((2 * weight for weight in islice(weights, 1, count)), initial=weights[0])
    end = (1 << BITS) - 1
    encoded = b"".join(min((each << BITS) // total, end).to_bytes(16, "little") for each in below)
    words = np.frombuffer(encoded, dtype="<u8").reshape(-1, 2).astype(np.uint64)
    return words[:, 1].astype(np.int64), words[:, 0].copy()


def _gaussian(variance: float, most: int) -> Sequence[int]:
    """Return weights of the discrete Gaussian for 0 to ``most``, in units of 2^-224."""
    numerator, denominator = variance.as_integer_ratio()
    exponent = (denominator << _FRACTION) // (2 * numerator)
    ratio, term, order = 0, 1 << _FRACTION, 0
    while term:
        ratio += term if order % 2 == 0 else -term
        order += 1
        term = (term * exponent >> _FRACTION) // order
    square = ratio * ratio >> _FRACTION
    weights = [1 << _FRACTION]
    for _ in range(most):
        weights.append(weights[-1] * ratio >> _FRACTION)
        ratio = ratio * square >> _FRACTION
    return weights


def _skellam(variance: float, most: int) -> Sequence[int]:
    """Return weights of Skellam for 0 to ``most``, of which the last is 2^192."""
    numerator, denominator = variance.as_integer_ratio()
    above, weight = 0, _SMALLEST
    weights = [weight]
    for order in range(most, 0, -1):
        above, weight = weight, above + 2 * order * denominator * weight // numerator
        weights.append(weight)
    weights.reverse()
    return weights
