"""Privacy loss random variables (PRV) by Opacus: the second opinion.

The accountant of Gopi et al. 2021, in the implementation of another library than the claim's. It estimates epsilon with
an error of known size; what is returned is the upper end.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from opacus.accountants import PRVAccountant as Prv
from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV, compute_safe_domain_size

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting.base import Accountant, bounded, folded, gaussians
from fedtrain.privacy.events import Event, SampledGaussian

# Errors of epsilon to try, the smallest first: a larger one needs fewer points. Delta errs by a thousandth.
_EPSILON_ERRORS = (0.01, 0.1)
_DELTA_ERROR = 1e-3

# Points of all mechanisms together (about a microsecond each), and mechanisms (100 ms each), worth waiting for.
_POINTS, _MECHANISMS = 4_000_000, 50


@dataclass(frozen=True, kw_only=True)
class PrvAccountant(Accountant):
    """Composes privacy loss random variables by Fourier transforms."""

    name = "Opacus PRV, upper end"
    library = "opacus"

    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
        """
        composed = folded(gaussians(events, delta))
        if not composed:
            return 0.0
        accountant = Prv()
        accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in composed]
        # Opacus divides by zero where the sampling rate is 1, to the right result, and wants more orders of Renyi
        # divergence than it has, which only makes its domain larger.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error = _epsilon_error(composed, delta)
            upper = float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta * _DELTA_ERROR))
        # What holds for a negative epsilon holds for 0.
        return bounded(max(upper, 0.0), delta)


def _epsilon_error(events: tuple[SampledGaussian, ...], delta: float) -> float:
    """Return the smallest error whose points (Gopi et al. 2021, theorem 5.5) are worth waiting for."""
    if len(events) > _MECHANISMS:
        raise PrivacySpecError(f"these are {len(events)} different mechanisms, more than {_MECHANISMS}")
    steps = [event.steps for event in events]
    variables = [PoissonSubsampledGaussianPRV(event.sampling_rate, event.noise_multiplier) for event in events]
    for error in _EPSILON_ERRORS:
        half = compute_safe_domain_size(variables, steps, error, delta * _DELTA_ERROR)
        mesh = error / sqrt(sum(steps) * log(12 / (delta * _DELTA_ERROR)) / 2)
        points = 2 * half / mesh * len(events)
        if points <= _POINTS:
            return error
    raise PrivacySpecError(f"it needs {points:.3g} points of the privacy loss, more than {_POINTS:g}")
