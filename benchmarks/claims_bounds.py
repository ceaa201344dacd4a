"""Lower bounds on epsilon: what two neighbouring inputs can be told apart by, computed and never sampled.

Each is of the same form: an event that has probability p in one world and q in the other proves that epsilon is at
least log((p - delta) / q). Sums of Gaussians have closed forms, and compositions under Poisson sampling the optimistic
discretization of dp-accounting.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, expm1, inf, log, sqrt
from pathlib import Path

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import chi2, gamma

DELTA = 1e-5
# Rate, noise multiplier, steps: tests/composition.py has composed a lower bound for them, in exact arithmetic.
TINY, TINY_STEPS = 1e-12, (0.01, 1.0, 10_000)
_VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "epsilons.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a program says of a situation, and what is true of it.

    Attributes:
        situation: what happens.
        program: the program, with what was called.
        claimed: the epsilon that it states; None if it states none.
        true: a lower bound on the true epsilon; None if nothing was released.
        note: what was measured, or the refusal.
        implied: whether the claim is the epsilon of the noise multiplier that was set, since nothing is printed.
        said: whether the program itself says that its number does not hold there.
    """

    situation: str
    program: str
    claimed: float | None
    true: float | None
    note: str
    implied: bool = False
    said: bool = False


def gaussian(shift: float, delta: float = DELTA) -> float:
    """Return the exact epsilon of a Gaussian that neighbours shift by so many deviations (Balle and Wang 2018)."""
    if shift == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        above = log_ndtr(shift / 2 - epsilon / shift)
        below = epsilon + log_ndtr(-shift / 2 - epsilon / shift)
        return float(above + log(-expm1(min(below - above, -1e-300))) - log(delta))

    return float(brentq(excess, 0.0, shift**2 / 2 + 50 * shift)) if excess(0.0) > 0 else 0.0


def poisson(rate: float, noise: float, steps: int, delta: float = DELTA) -> float:
    """Return a lower bound for Poisson-sampled Gaussians, by discretization to the optimistic side."""
    logging.disable(logging.WARNING)  # that the optimistic side has another algorithm
    try:
        step = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=rate, pessimistic_estimate=False, value_discretization_interval=1e-4
        )
        return float(step.self_compose(steps).get_epsilon_for_delta(delta))
    finally:
        logging.disable(logging.NOTSET)


def tiny() -> float:
    """Return a lower bound for `TINY_STEPS` at the delta `TINY`, where the rounding of transforms shows."""
    names = ("sampling_rate", "noise_multiplier", "steps")
    (found,) = (each for each in json.loads(_VECTORS.read_text()) if tuple(each[name] for name in names) == TINY_STEPS)
    return float(found["epsilon"][f"{TINY:g}"])


def shuffled(noise: float, batches: int, delta: float = DELTA) -> float:
    """Return a lower bound for one pass through shuffled batches (Chua et al. 2024, "How Private are DP-SGD").

    All other records contribute -1. That of the record in question contributes 1 or is zero, so its batch is above all
    others by 2 or by 1. The event is that some batch is above a threshold.
    """

    def events() -> Iterable[tuple[float, float]]:
        for threshold in np.linspace(0.0, 3 / noise + 8, 4000):
            other, far, near = (float(log_ndtr(threshold - shift / noise)) for shift in (0, 2, 1))
            yield log(-expm1((batches - 1) * other + far)), log(-expm1((batches - 1) * other + near))

    return _best(events(), delta)


def scales(ratio: float, count: int, delta: float = DELTA) -> float:
    """Return a lower bound where neighbours differ in the variance of so many Gaussians, by a ratio above 1."""
    thresholds = chi2.isf(np.geomspace(0.99, 1e-4, 400), count)
    return _best(((chi2.logsf(at, count), chi2.logsf(at * ratio, count)) for at in thresholds), delta)


def laplace_scales(ratio: float, count: int, delta: float = DELTA) -> float:
    """Return a lower bound where neighbours differ in the scale of so many Laplace variables, by a ratio above 1."""
    thresholds = gamma.isf(np.geomspace(0.99, 1e-4, 400), count)
    return _best(((gamma.logsf(at, count), gamma.logsf(at * ratio, count)) for at in thresholds), delta)


def two(values: float, counts: float) -> float:
    """Return the shift of two Gaussians that are released together."""
    return sqrt(values**2 + counts**2)


def _best(events: Iterable[tuple[float, float]], delta: float) -> float:
    """Return the best bound of events, each given as two logarithms of probabilities."""
    return max((log(exp(p) - delta) - q if q > -inf else inf) for p, q in events if exp(p) > delta)
