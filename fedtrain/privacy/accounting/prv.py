"""Privacy loss random variables (PRV) by Opacus: the second opinion.

The accountant of Gopi et al. 2021, in the implementation of another library than the claim's. It estimates epsilon with
an error of known size; what is returned is the upper end. As for the claim, what rounding can change of delta is taken
from delta first. Of Skellam noise it composes the loss in one dimension (`fedtrain.privacy.accounting.skellam_loss`).
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from opacus.accountants.analysis.prv import (
    DiscretePRV,
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    compute_safe_domain_size,
    discretize,
)

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting import rounding
from fedtrain.privacy.accounting.base import COMPOSED, Accountant, bounded, composable, folded
from fedtrain.privacy.accounting.skellam_loss import POINTS, SkellamLoss
from fedtrain.privacy.events import Event, SampledGaussian, SampledSkellam

_Step = SampledGaussian | SampledSkellam

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
    kinds = COMPOSED

    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
        """
        found = composable(events, delta)
        composed: tuple[_Step, ...] = (
            *folded(tuple(event for event in found if isinstance(event, SampledGaussian))),
            *(event for event in found if isinstance(event, SampledSkellam)),
        )
        if not composed:
            return 0.0
        # Opacus divides by zero where the sampling rate is 1, to the right result, and wants more orders of Renyi
        # divergence than it has, which only makes its domain larger.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error, domain, variables = _domain(composed, delta)
            ends = domain.t_min, domain.t_max
            ones = (
                each.within(*ends) if isinstance(each, SkellamLoss) else TruncatedPrivacyRandomVariable(each, *ends)
                for each in variables
            )
            repeated = [
                compose_heterogeneous([discretize(one, domain)], [event.steps])
                for one, event in zip(ones, composed, strict=True)
            ]
            whole = repeated[0] if len(repeated) == 1 else compose_heterogeneous([*repeated], [1] * len(repeated))
            left = delta - _rounding(composed, repeated)
            if not rounding.small(delta, left):
                raise PrivacySpecError(
                    f"the rounding of its steps can be {delta - left:.1e}, which is not small against delta {delta:g}"
                )
            upper = float(whole.compute_epsilon(left, delta * _DELTA_ERROR, error)[-1])
        # What holds for a negative epsilon holds for 0.
        return bounded(max(upper, 0.0), delta)


def _rounding(events: tuple[_Step, ...], repeated: list[DiscretePRV]) -> float:
    """Return by how much delta can differ.

    Opacus transforms for a single step too, and what is composed of several mechanisms twice. The probabilities of one
    step are differences of a distribution function, which is a sum where the noise is integer.
    """
    error = 0.0
    for event, each in zip(events, repeated, strict=True):
        points, norm = len(each), float(np.linalg.norm(each.pmf))
        for steps in {max(event.steps, 2), 2} if len(repeated) > 1 else {max(event.steps, 2)}:
            error += rounding.self_composition(steps=steps, points=points, one=1.0, composed=norm)
        # The norm of a convolution is at most that of each of its parts.
        error += rounding.composition(points=rounding.transformed(2 * points), one=norm, other=norm)
        error += event.steps * rounding.CONSTRUCTION + rounding.summation(points)
        if isinstance(event, SampledSkellam):
            error += event.steps * rounding.summation(POINTS)
    return error


def _domain(
    events: tuple[_Step, ...], delta: float
) -> tuple[float, Domain, list[PoissonSubsampledGaussianPRV | SkellamLoss]]:
    """Return the smallest error whose points (Gopi et al. 2021, theorem 5.5) are worth waiting for, and the points.

    Raises:
        PrivacySpecError: there is none.
    """
    if len(events) > _MECHANISMS:
        raise PrivacySpecError(f"these are {len(events)} different mechanisms, more than {_MECHANISMS}")
    steps = [event.steps for event in events]
    variables = [
        SkellamLoss.of(event)
        if isinstance(event, SampledSkellam)
        else PoissonSubsampledGaussianPRV(event.sampling_rate, event.noise_multiplier)
        for event in events
    ]
    for error in _EPSILON_ERRORS:
        half = compute_safe_domain_size(variables, steps, error, delta * _DELTA_ERROR)
        mesh = error / sqrt(sum(steps) * log(12 / (delta * _DELTA_ERROR)) / 2)
        points = 2 * half / mesh * len(events)
        if points <= _POINTS:
            return error, Domain.create_aligned(-half, half, mesh), variables
    raise PrivacySpecError(f"it needs {points:.3g} points of the privacy loss, more than {_POINTS:g}")
