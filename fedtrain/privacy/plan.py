"""From a promise (a spec) to the mechanism that keeps it (a plan).

Sampler, clipping, noise and accounting of record privacy all derive from one plan, and only ``calibrate`` makes plans.
"""

from dataclasses import dataclass
from math import ceil, isfinite

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting import COARSE, FINE, epsilon_of
from fedtrain.privacy.events import SampledGaussian

# Beyond this much noise a step moves the weights by noise alone; below it the guarantee is vacuous.
NOISE_BOUNDS = (0.3, 1000.0)


@dataclass(frozen=True, kw_only=True)
class PrivacySpec:
    """A promise of record-level differential privacy, in public constants only.

    Two data sets of a client are neighbours if one is the other with one record added or removed.

    Attributes:
        epsilon: the budget of each client over the whole run.
        delta: the delta of the budget.
        clip_norm: bound on the L2 norm of each record's gradient.
        sampling_rate: probability with which each record enters a batch, independently (Poisson sampling).
        batch_size: the divisor of the summed gradients: a public constant, never the size of the batch drawn.
        steps_per_round: optimizer steps in a round.
        rounds: rounds that one client trains in at most.
    """

    epsilon: float
    delta: float
    clip_norm: float
    sampling_rate: float
    batch_size: int
    steps_per_round: int
    rounds: int

    @property
    def steps(self) -> int:
        """All optimizer steps that a client takes at most."""
        return self.steps_per_round * self.rounds

    @property
    def expected_records(self) -> float:
        """The public estimate of a client's number of records."""
        return self.batch_size / self.sampling_rate


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """A spec with the noise that keeps it. Made by ``calibrate`` alone."""

    spec: PrivacySpec
    noise_multiplier: float

    def event(self, steps: int) -> SampledGaussian:
        """Return what ``steps`` optimizer steps under this plan do to privacy."""
        return SampledGaussian(
            sampling_rate=self.spec.sampling_rate, noise_multiplier=self.noise_multiplier, steps=steps
        )

    @property
    def round_event(self) -> SampledGaussian:
        """What one round does to the privacy of a client that trains in it."""
        return self.event(self.spec.steps_per_round)


def calibrate(spec: PrivacySpec, *, noise_multiplier: float | None = None) -> PrivacyPlan:
    """Return the plan with the least noise that keeps the spec.

    With ``noise_multiplier`` that noise is used instead, if it keeps the spec.

    Formal guarantee: training under the plan, with noise that nobody can predict, is (epsilon, delta)-differentially
    private for every record of the client, by the accounting of ``fedtrain.privacy.accounting``.

    Raises:
        PrivacySpecError: the spec is inconsistent, or no allowed noise keeps it; the arithmetic is shown.
    """
    _check(spec)

    def spent(noise: float, discretization: float) -> float:
        event = SampledGaussian(sampling_rate=spec.sampling_rate, noise_multiplier=noise, steps=spec.steps)
        return epsilon_of([event], spec.delta, discretization=discretization)

    promise = (
        f"{spec.rounds} rounds of {spec.steps_per_round} steps = {spec.steps} steps at sampling rate "
        f"{spec.sampling_rate:g} and delta {spec.delta:g}"
    )
    if noise_multiplier is not None:
        if not NOISE_BOUNDS[0] <= noise_multiplier <= NOISE_BOUNDS[1]:
            raise PrivacySpecError(
                f"noise multiplier {noise_multiplier:g} is outside of {NOISE_BOUNDS[0]:g} to {NOISE_BOUNDS[1]:g}"
            )
        if (epsilon := spent(noise_multiplier, FINE)) > spec.epsilon:
            raise PrivacySpecError(
                f"noise multiplier {noise_multiplier:g} spends epsilon {epsilon:.4g} over {promise}, more than the "
                f"budget of {spec.epsilon:g}; raise the noise or the budget, or train less"
            )
        return PrivacyPlan(spec=spec, noise_multiplier=noise_multiplier)

    low, high = NOISE_BOUNDS
    if (epsilon := spent(high, COARSE)) > spec.epsilon:
        raise PrivacySpecError(
            f"epsilon {spec.epsilon:g} cannot be kept: even noise multiplier {high:g} spends epsilon {epsilon:.4g} "
            f"over {promise}; raise the budget, or train less"
        )
    # The upper end always keeps the budget, so what is returned does too. The coarse bound is never the smaller one.
    while high / low > 1 + 1e-3:
        middle = (low * high) ** 0.5
        if spent(middle, COARSE) > spec.epsilon:
            low = middle
        else:
            high = middle
    # Few digits survive printing and copying exactly; rounding up only adds noise.
    return PrivacyPlan(spec=spec, noise_multiplier=ceil(high * 1e4) / 1e4)


def _check(spec: PrivacySpec) -> None:
    if not (isfinite(spec.epsilon) and spec.epsilon > 0):
        raise PrivacySpecError(f"epsilon = {spec.epsilon:g} is not allowed: it is finite and above 0")
    if not 0 < spec.sampling_rate <= 1:
        raise PrivacySpecError(f"sampling rate = {spec.sampling_rate:g} is not allowed: it is in (0, 1]")
    if not (isfinite(spec.clip_norm) and spec.clip_norm > 0):
        raise PrivacySpecError(f"clip norm = {spec.clip_norm:g} is not allowed: it is finite and above 0")
    if min(spec.batch_size, spec.steps_per_round, spec.rounds) < 1:
        raise PrivacySpecError("batch size, steps a round and rounds are each at least 1")
    if not 0 < spec.delta < 1 / spec.expected_records:
        raise PrivacySpecError(
            f"delta = {spec.delta:g} is not allowed: it must be below 1 / records of a client, and batch size "
            f"{spec.batch_size} / sampling rate {spec.sampling_rate:g} means {spec.expected_records:g} records, "
            f"so below {1 / spec.expected_records:.3g}; a larger delta allows publishing a record outright"
        )
