"""What the same guarantee takes of noise: of each client all of it, of each a share, or of one trusted server."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from fedtrain.privacy import PrivacyPlan, calibrate
from fedtrain.privacy.accounting import Bound, claim
from fedtrain.privacy.events import SampledGaussian
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.report.numbers import count, upper


@dataclass(frozen=True, kw_only=True)
class TrustedNoise:
    """The noise that one way to add it takes, to the budget of the plan.

    Attributes:
        trust: who adds it, of the values of ``privacy.trust``.
        noise_multiplier: standard deviation of the noise that is counted, over the sensitivity.
        deviation: standard deviation of the noise on each value of the mean of a whole cohort, in clipping norms.
        epsilon: what all rounds spend.
    """

    trust: str
    noise_multiplier: float
    deviation: float
    epsilon: float


def compare(plan: PrivacyPlan, bound: Bound) -> tuple[TrustedNoise, ...]:
    """Return what a plan whose clients share the noise takes, beside noise of each client and of a trusted server.

    The other two have Gaussian noise, the same rounds, and a step a round. Nothing for a plan that shares no noise.

    Args:
        plan: the plan.
        bound: on the epsilon of all its rounds.
    """
    spec, shares = plan.spec, plan.spec.shares
    if shares is None:
        return ()
    gaussian = calibrate(replace(spec, shares=None))
    event = SampledGaussian(
        sampling_rate=spec.sampling_rate, noise_multiplier=gaussian.noise_multiplier, steps=spec.steps
    )
    epsilon, mechanism = claim([event], spec.delta).epsilon, mechanism_of_plan(plan)
    shared = mechanism.deviation(plan, shares.members)
    # Of one trusted server, in the place of all shares: the noise of a clipping norm, not of one after rounding.
    central = shared * gaussian.noise_multiplier / sqrt(shares.members * plan.grid.share) * plan.grid.steps
    return (
        TrustedNoise(
            trust="local",
            noise_multiplier=gaussian.noise_multiplier,
            deviation=central * sqrt(shares.members),
            epsilon=epsilon,
        ),
        TrustedNoise(
            trust="distributed", noise_multiplier=plan.noise_multiplier, deviation=shared, epsilon=bound.epsilon
        ),
        TrustedNoise(trust="central", noise_multiplier=gaussian.noise_multiplier, deviation=central, epsilon=epsilon),
    )


def as_data(trusts: Sequence[TrustedNoise]) -> dict[str, Any]:
    """Return a comparison as JSON can hold it; nothing where there is none."""
    if not trusts:
        return {}
    return {
        "trusts": [
            {
                "trust": row.trust,
                "noise_multiplier": row.noise_multiplier,
                "deviation": row.deviation,
                "epsilon": row.epsilon,
            }
            for row in trusts
        ]
    }


def lines(plan: PrivacyPlan, trusts: Sequence[TrustedNoise]) -> list[str]:
    """Return a comparison in words and a table, and what the shares are."""
    shares, grid = plan.spec.shares, plan.grid
    assert shares is not None  # there is a comparison
    rows = [
        f"{row.trust + (' *' if row.trust == 'distributed' else ''):<14}{row.noise_multiplier:>18.4g}"
        f"{row.deviation:>20.4g}{upper(row.epsilon):>10}  {_TRUSTS[row.trust]}"
        for row in trusts
    ]
    deviation = count(round(sqrt(grid.share)))
    found = [
        f"The {shares.members} clients of a cohort share the noise, and epsilon counts {shares.honest} shares:",
        f"those of {shares.threshold} survivors less {shares.colluders} that may collude.",
        f"A share has a deviation of {deviation} steps of a grid of {count(grid.steps)} for a clipping norm.",
        f"Numbers of {shares.bits} bits are sent, and a model has {count(grid.values)} trained numbers at most.",
        "",
        "The same guarantee by who adds the noise, with a step a round, and the noise on each value of the mean of a",
        "cohort, in clipping norms:",
        "",
        f"{'trust':<14}{'noise multiplier':>18}{'noise on the mean':>20}{'epsilon':>10}  relies on",
        *rows,
    ]
    if shares.honest == 1:
        found += ["", nothing_gained(plan)]
    return [*found, ""]


def nothing_gained(plan: PrivacyPlan) -> str:
    """Return that a plan which counts on one share alone takes as much noise as without sharing."""
    shares = plan.spec.shares
    assert shares is not None  # it counts on one
    return (
        f"transport.secagg.threshold = {shares.threshold} less privacy.colluders = {shares.colluders} counts on one "
        "share: each client adds as much noise as it would alone, and nothing is gained. Raise the threshold, or the "
        "cohort"
    )


_TRUSTS = {
    "local": "each client's own program alone",
    "distributed": "that no more clients collude",
    "central": "one server with all updates",
}
