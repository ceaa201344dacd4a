"""From a guarantee (a spec) to the mechanism that keeps it (a plan).

Sampler, clipping, noise and accounting all derive from one plan, and only ``calibrate`` makes plans.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import ceil
from typing import Self

from pydantic import JsonValue, TypeAdapter

from fedtrain.crypto.canonical import canonical
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting import COARSE, FINE, epsilon_of
from fedtrain.privacy.correlation import inflation, round_spread
from fedtrain.privacy.events import KIND, Event, SampledGaussian
from fedtrain.privacy.shares import Grid, grid_of
from fedtrain.privacy.spec import PrivacySpec, check_spec

# Beyond this much noise a step moves the weights by noise alone; below it the guarantee is vacuous.
NOISE_BOUNDS = (0.3, 1000.0)


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """A spec with the noise that keeps it. Made by ``calibrate``, and read back by ``from_data``, alone.

    Attributes:
        spec: the guarantee.
        noise_multiplier: standard deviation of the noise over the clipping norm. With correlated noise, that of the
            independent noise in each participation of a client that would spend as much.
        kind: the name that tells it from plans of other mechanisms with the same spec. Clients sign its digest.
    """

    spec: PrivacySpec
    noise_multiplier: float
    kind: str = KIND

    def event(self, steps: int) -> SampledGaussian:
        """Return what ``steps`` noised releases under this plan do to privacy.

        Raises:
            PrivacySpecError: clients share the noise; what they release only their mechanism knows.
        """
        if self.spec.shares is not None:
            raise PrivacySpecError("what a plan of shared noise releases is for its mechanism to say")
        return SampledGaussian(
            sampling_rate=self.spec.sampling_rate, noise_multiplier=self.noise_multiplier, steps=steps
        )

    @property
    def value_noise_multiplier(self) -> float:
        """The deviation of what is drawn for the sum of the contributions, over the clipping norm.

        With adaptive clipping the noised count spends a part of each release, so that the sum has more noise than the
        ``noise_multiplier`` z of both together: ``(z^-2 - (2 count_noise)^-2)^(-1/2)`` (Andrew et al. 2021, theorem 1).
        With correlated noise it is larger by what one client can move (`fedtrain.privacy.correlation.inflation`).
        """
        z, adaptive = self.noise_multiplier, self.spec.adaptive
        if self.spec.correlation is not None:
            return z * inflation(self.spec.correlation, self.spec.rounds)
        if adaptive is None:
            return z
        return float((z**-2 - (2 * adaptive.count_noise) ** -2) ** -0.5)

    @property
    def round_noise_multiplier(self) -> float:
        """The deviation of the noise on the sum of one round, over the clipping norm."""
        drawn, correlated = self.value_noise_multiplier, self.spec.correlation
        return drawn if correlated is None else drawn * round_spread(correlated)

    def as_data(self) -> dict[str, JsonValue]:
        """Return the plan as a JSON object that names its mechanism.

        Correlation and shares are left out where there are none: plans of earlier versions have none.
        """
        spec = asdict(self.spec)
        for later in ("correlation", "shares"):
            if spec[later] is None:
                del spec[later]
        return {"kind": self.kind, "noise_multiplier": self.noise_multiplier, "spec": spec}

    @property
    def grid(self) -> Grid:
        """The grid of the whole numbers that clients send, where they share the noise.

        Raises:
            PrivacySpecError: they do not, or there is none that holds so much noise.
        """
        if self.spec.shares is None:
            raise PrivacySpecError("the plan shares no noise, and has no grid of whole numbers")
        return grid_of(self.spec.shares, self.noise_multiplier)

    @property
    def digest(self) -> str:
        """The hex SHA-256 of the plan's data as canonical JSON (RFC 8785)."""
        return sha256(canonical(self.as_data())).hexdigest()

    @classmethod
    def from_data(cls, data: object, *, kinds: Collection[str] = (KIND,)) -> Self:
        """Return the plan of a JSON object as ``as_data`` makes it, for an auditor.

        Every constant is checked, and that they agree with each other. Whether the noise keeps the budget is for
        ``calibrate(plan.spec, noise_multiplier=plan.noise_multiplier)``.

        Args:
            data: the object.
            kinds: the kinds of plans that are known.

        Raises:
            PrivacySpecError: another mechanism, other fields or types, or constants that no plan can have.
        """
        try:
            read = _PLAN.validate_json(canonical(data))
        except ValueError as error:  # pydantic's are ValueErrors too
            raise PrivacySpecError(f"not a privacy plan: {error}") from error
        if read.kind not in kinds:
            raise PrivacySpecError(f"not a privacy plan: its kind is {read.kind!r}, and {', '.join(kinds)} are known")
        plan = cls(spec=read.spec, noise_multiplier=read.noise_multiplier, kind=read.kind)
        if canonical(plan.as_data()) != canonical(data):
            raise PrivacySpecError("not a privacy plan: it has fields or types that a plan does not have")
        check_spec(plan.spec)
        _check_noise(plan.spec, plan.noise_multiplier)
        return plan


@dataclass(frozen=True, kw_only=True)
class _PlanData:
    kind: str
    noise_multiplier: float
    spec: PrivacySpec


_PLAN = TypeAdapter(_PlanData)


def calibrate(
    spec: PrivacySpec,
    *,
    noise_multiplier: float | None = None,
    kind: str = KIND,
    event_of: Callable[[float, int], Event] | None = None,
) -> PrivacyPlan:
    """Return the plan with the least noise that keeps the spec.

    Args:
        spec: the guarantee.
        noise_multiplier: noise to use instead, if it keeps the spec.
        kind: that of the plan.
        event_of: returns what so many steps with a noise multiplier are; steps of the Poisson-sampled Gaussian if it is
            ``None``. Where more noise spends more, as on a grid that is coarser for it, the noise that is found keeps
            the spec, and need not be the least.

    Formal guarantee: training under the plan, with noise that nobody can predict, is (epsilon, delta)-differentially
    private for every unit of the spec, by the accounting of ``fedtrain.privacy.accounting``.

    Raises:
        PrivacySpecError: the spec is inconsistent, or no allowed noise keeps it; the arithmetic is shown.
    """
    check_spec(spec)

    def gaussian(noise: float, steps: int) -> SampledGaussian:
        return SampledGaussian(sampling_rate=spec.sampling_rate, noise_multiplier=noise, steps=steps)

    def spent(noise: float, discretization: float) -> float:
        return epsilon_of([(event_of or gaussian)(noise, spec.steps)], spec.delta, discretization=discretization)

    def keeps(noise: float) -> bool:
        try:
            return spent(noise, COARSE) <= spec.epsilon
        except PrivacySpecError:  # so little integer noise has no bound, and that of the largest is known to have one
            return False

    work = (
        f"{spec.rounds} rounds of {spec.steps_per_round} steps = {spec.steps} steps at sampling rate "
        f"{spec.sampling_rate:g} and delta {spec.delta:g}"
    )
    if noise_multiplier is not None:
        _check_noise(spec, noise_multiplier)
        if (epsilon := spent(noise_multiplier, FINE)) > spec.epsilon:
            raise PrivacySpecError(
                f"noise multiplier {noise_multiplier:g} spends epsilon {epsilon:.4g} over {work}, more than the "
                f"budget of {spec.epsilon:g}; raise the noise or the budget, or train less"
            )
        return PrivacyPlan(spec=spec, noise_multiplier=noise_multiplier, kind=kind)

    low, high = NOISE_BOUNDS
    if (epsilon := spent(high, COARSE)) > spec.epsilon:
        raise PrivacySpecError(
            f"epsilon {spec.epsilon:g} cannot be kept: even noise multiplier {high:g} spends epsilon {epsilon:.4g} "
            f"over {work}; raise the budget, or train less"
        )
    # The upper end always keeps the budget, so what is returned does too. The coarse bound is never the smaller one.
    while high / low > 1 + 1e-3:
        middle = (low * high) ** 0.5
        if keeps(middle):
            high = middle
        else:
            low = middle
    # Few digits survive printing and copying exactly. More integer noise may take a coarser grid, and spend more.
    rounded = ceil(high * 1e4) / 1e4
    noise_multiplier = rounded if keeps(rounded) else high
    _check_noise(spec, noise_multiplier)
    return PrivacyPlan(spec=spec, noise_multiplier=noise_multiplier, kind=kind)


def _check_noise(spec: PrivacySpec, noise_multiplier: float) -> None:
    if not NOISE_BOUNDS[0] <= noise_multiplier <= NOISE_BOUNDS[1]:
        raise PrivacySpecError(
            f"noise multiplier {noise_multiplier:g} is outside of {NOISE_BOUNDS[0]:g} to {NOISE_BOUNDS[1]:g}"
        )
    if spec.adaptive is not None and 2 * spec.adaptive.count_noise <= noise_multiplier:
        raise PrivacySpecError(
            f"clipping noise {spec.adaptive.count_noise:g} is too little: the count alone has noise multiplier 2 * "
            f"{spec.adaptive.count_noise:g} = {2 * spec.adaptive.count_noise:g}, and count and update together must "
            f"have {noise_multiplier:g}; raise privacy.clipping_noise above {noise_multiplier / 2:g}, or the budget"
        )
