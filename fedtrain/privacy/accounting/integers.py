"""What is proven of Skellam noise: the divergence of one step, and the Gaussian mechanism that it is close to.

**Divergence.** Of a shift of L2 norm D2 and L1 norm D1, by whole numbers, with noise of variance m on each coordinate,
at a whole order p of 2 and more (Agarwal, Kairouz, Liu 2021, corollary 3.6):

    p D2^2 / (2 m)  +  min(((2 p - 1) D2^2 + 6 D1) / (4 m^2), 3 D1 / (2 m))

The first term is the divergence of Gaussian noise of the same variance.

**Sampling.** Let Q be the probabilities of outputs without a record, P those with it, and X = P / Q. With the rate q,
R = 1 - q + q X is the ratio of their mixture to Q. Where the record is removed, the moment of order p is E_Q[R^p]. It
is a sum of moments of X, which `moment` adds up. Where the record is added, it is E_Q[R^(1 - p)]. For a mechanism of
which nothing is known that may be larger, by a factor of up to 3 (Zhu and Wang 2019). It is not where an exchange of
outputs turns P into Q and Q into P (Mironov, Talwar, Zhang 2019, theorem 5, for densities). The noise is symmetric, so
that reflection in the middle between both means is such an exchange. The proof for probabilities: let an output and
its image have the probabilities 1 : x in Q, with x >= 1, and so x : 1 in P. With u = 1 - q + q x and w = 1 - q + q / x
we need

    u^p + x w^p >= u^(1 - p) + x w^(1 - p).

Let g(v) = v^p - v^(1 - p), and y = 1 / w. Then it says that g(u) >= x g(y) / y. Since u - 1 = (x / y) (y - 1), it says
that g(u) / (u - 1) >= g(y) / (y - 1). That holds, as u >= y >= 1 (u w >= 1), g(1) = 0, and g is convex above 1. What
other records do, and draws of the rounding, is a mixture over what they are: it is not larger (joint convexity).

**Closeness.** But for a small distance, Skellam noise of variance m is what anyone can make of Gaussian noise of
variance m - 4 - 12 sqrt(m / 3), without knowing what it was added to: y becomes the whole number x with odds
exp(-(x - y)^2 / (2 V)). Here V is drawn for each coordinate: it is 4 + 12 sqrt(m / 3) + (N - l) / 5, where N is Poisson
of mean l = 25 m / 3, or 4 where that is less. It is less with a probability of at most exp(-72) (Chernoff, for N below
l - 12 sqrt(l)). The sum of the odds over x differs from an integral by a factor within 2^-112 of 1 (Poisson summation).
So but for these the result is a mixture of Gaussians at whole numbers, of variances m + (N - l) / 5. (Where N is below
0.7 l, that may be no variance. Those N add less than exp(-m / 12) to the characteristic function below.) With

    A = m (cos t - 1 + t^2 / 2),   B = l (exp(-t^2 / 10) - 1 + t^2 / 10),

the characteristic functions of the Skellam and of the mixture are exp(A - m t^2 / 2) and exp(B - m t^2 / 2). Series of
cos and exp give

    L <= A, B <= min(L + m t^8 / 28800, m t^4 / 24),  L = m (t^4 / 24 - t^6 / 720),
    L' <= A', B' <= min(L' + m t^7 / 3600, m t^3 / 6) for t >= 0.

By Cauchy and Schwarz, the sum over x of the difference of probabilities is at most the root of the sum of
1 / (1 + x^2 / m), which is pi sqrt(m), times the sum of (1 + x^2 / m) times the square of the difference. By Parseval,
the latter is an integral of the squares of the differences of the characteristic functions and of their derivatives.
With t = v / sqrt(m) it is at most J / (2 pi m^6 sqrt(m)), where

    J = integral of exp(-v^2 + v^4 / (12 m)) (f^2 + ((v + v^3 / (6 m)) f + h)^2) over |v| <= pi sqrt(m),
    f = v^8 / 28800,  h = v^7 / 3600.

So the distance in total variation is at most sqrt(J / 8) / m^3, which is below 1 / (117 m^3) where m is 4096 or more.
The distance itself is about 1 / (2000 m^3). Distances of coordinates and of steps add up. So, but for delta, the
Skellam mechanism spends no more than a Gaussian one, to which the L2 norm alone matters.
"""

from collections.abc import Callable
from functools import cache
from math import exp, lgamma, log, sqrt

import numpy as np
from numpy.typing import NDArray

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting.rounding import ROUNDING
from fedtrain.privacy.events import NOISE_DISTANCE, Event, SampledGaussian, SampledSkellam

Floats = NDArray[np.float64]

LEAST_VARIANCE = 4096
"""Of the noise whose closeness to a Gaussian is proven."""

# The distance of a rounded Gaussian from the mixture: exp(-72), and what sums over whole numbers differ by.
_ROUNDED = exp(-72) * (1 + 2.0**-7)

# Of delta, for that the noise is not exactly what is composed.
_RESERVED = 1e-3

# What exponentials of such a size are multiplied with is far below any delta, so that the comparison fails anyway.
_LARGE = 700.0


LARGEST_ORDER = 2**14


def divergence(event: SampledGaussian | SampledSkellam, orders: Floats) -> Floats:
    """Return a bound on the Renyi divergence of one step in which the record is, of whole orders of 2 and more."""
    if isinstance(event, SampledGaussian):
        return orders / (2 * event.noise_multiplier**2)
    variance, square, norm = float(event.variance), float(event.l2) ** 2, float(event.l1)
    more = ((2 * orders - 1) * square + 6 * norm) / (4 * variance**2)
    return orders * square / (2 * variance) + np.minimum(more, 3 * norm / (2 * variance))


def moment(event: SampledGaussian | SampledSkellam, order: int) -> float:
    """Return a bound on (order - 1) times the Renyi divergence of one step, of a whole order of 2 and more.

    It is the logarithm of 1 plus the sum over k from 2 of the binomial probability of k successes in ``order`` draws at
    the sampling rate, times exp(g(k)) - 1, where g(k) is k - 1 times the divergence of order k of a step in which the
    record is. Every term is positive, so that nothing cancels, and is raised by what rounding can lower it.
    """
    rate = event.sampling_rate
    if rate == 1:
        return (order - 1) * float(divergence(event, np.asarray([float(order)]))[0]) * (1 + 16 * ROUNDING)
    k = np.arange(2.0, order + 1)
    whole = (k - 1) * divergence(event, k) * (1 + 16 * ROUNDING)
    enters, stays = k * log(rate), (order - k) * np.log1p(-rate)
    factorials = _log_factorials()[: order + 1]
    ways = factorials[order] - factorials[2:] - factorials[order - 2 :: -1]
    excess = whole + np.log(-np.expm1(-whole))  # of exp(g) - 1, where exp(g) may be beyond all numbers
    terms = ways + enters + stays + excess
    terms += 32 * ROUNDING * (3 * factorials[order] - enters - stays + whole + 1)
    return float(np.logaddexp(0.0, np.logaddexp.reduce(terms))) * (1 + 2 * order * ROUNDING)


@cache
def _log_factorials() -> Floats:
    return np.array([lgamma(n + 1) for n in range(LARGEST_ORDER + 1)])


def gaussian(event: SampledSkellam) -> SampledGaussian:
    """Return the Gaussian mechanism that a Skellam mechanism is close to: see the module.

    Raises:
        PrivacySpecError: the grid is too coarse for that.
    """
    if event.variance < LEAST_VARIANCE:
        raise PrivacySpecError(
            f"noise of variance {event.variance} in grid steps is not shown to be close to a Gaussian: it is below "
            f"{LEAST_VARIANCE}"
        )
    left = event.variance - 4 - 12 * sqrt(event.variance / 3)
    noise = sqrt(left) / event.l2 * (1 - 8 * ROUNDING)
    return SampledGaussian(sampling_rate=event.sampling_rate, noise_multiplier=noise, steps=event.steps)


def distance(events: tuple[Event, ...], *, of_gaussian: bool) -> float:
    """Return by how much, in total variation, what was done differs from what is composed.

    Args:
        events: what was done. Gaussian noise is drawn as its event says.
        of_gaussian: whether `gaussian` is composed in place of each Skellam mechanism.
    """
    total = 0.0
    for event in events:
        if isinstance(event, SampledSkellam):
            each = NOISE_DISTANCE + (1 / (100 * event.variance**3) + _ROUNDED if of_gaussian else 0.0)
            total += event.steps * event.values * each
    return total * (1 + 1e-9)


def paid_for(epsilon: Callable[[float], float], delta: float, apart: float) -> float:
    """Return the epsilon at ``delta`` of what is ``apart`` in total variation from what was composed.

    If that is (epsilon, d)-private, this is (epsilon, d + (1 + exp(epsilon)) apart)-private. A thousandth of delta is
    set aside for it.

    Args:
        epsilon: that of what was composed, by delta.
        delta: the delta.
        apart: the distance; at 0 nothing is set aside.

    Raises:
        PrivacySpecError: a thousandth is not enough.
    """
    if not apart:
        return epsilon(delta)
    found = epsilon(delta * (1 - _RESERVED))
    due = (1 + exp(min(found, _LARGE))) * apart
    if due > _RESERVED * delta * (1 - 1e-9):
        raise PrivacySpecError(
            f"at epsilon {found:.4g} the noise can differ from what is composed by {due:.1e} of delta {delta:g}, more "
            f"than the {_RESERVED:g} of it that is set aside"
        )
    return found
