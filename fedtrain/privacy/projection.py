"""What a plan will spend, before anything is trained: over the rounds, and with other noise and sampling rates."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedtrain.privacy.accounting import COARSE, FINE, epsilon_of
from fedtrain.privacy.events import SampledGaussian
from fedtrain.privacy.plan import PrivacyPlan

NOISE_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
RATE_FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What so many rounds spend with such noise and sampling rate, at the delta of the plan."""

    rounds: int
    noise_multiplier: float
    sampling_rate: float
    epsilon: float


def over_rounds(plan: PrivacyPlan, rounds: Iterable[int]) -> tuple[Projection, ...]:
    """Return what the plan has spent after each number of rounds."""
    spec = plan.spec
    return tuple(
        Projection(
            rounds=number,
            noise_multiplier=plan.noise_multiplier,
            sampling_rate=spec.sampling_rate,
            epsilon=epsilon_of([plan.event(number * spec.steps_per_round)], spec.delta, discretization=FINE),
        )
        for number in rounds
    )


def alternatives(plan: PrivacyPlan) -> tuple[Projection, ...]:
    """Return what all rounds of the plan would spend with other noise and rates, the steps being the same.

    A plan that counts on no sampling has no other rates. The grid is the coarse one, except for the plan itself.
    """
    spec = plan.spec
    rates = {1.0} if spec.sampling_rate == 1 else {min(spec.sampling_rate * factor, 1.0) for factor in RATE_FACTORS}
    return tuple(
        _alternative(plan, plan.noise_multiplier * factor, rate) for rate in sorted(rates) for factor in NOISE_FACTORS
    )


def _alternative(plan: PrivacyPlan, noise: float, rate: float) -> Projection:
    spec = plan.spec
    itself = (noise, rate) == (plan.noise_multiplier, spec.sampling_rate)
    event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=spec.steps)
    return Projection(
        rounds=spec.rounds,
        noise_multiplier=noise,
        sampling_rate=rate,
        epsilon=epsilon_of([event], spec.delta, discretization=FINE if itself else COARSE),
    )
