"""From a guarantee (a spec) to the mechanism that keeps it (a plan).

Sampler, clipping, noise and accounting all derive from one plan, and only ``calibrate`` makes plans.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import ceil, isclose, isfinite
from typing import Literal, Self

from pydantic import JsonValue, TypeAdapter

from fedtrain.crypto.canonical import canonical
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting import COARSE, FINE, epsilon_of
from fedtrain.privacy.correlation import Correlation, inflation, round_spread
from fedtrain.privacy.events import KIND, MOST_STEPS, Event, SampledGaussian
from fedtrain.privacy.shares import Grid, NoiseShares, grid_of

# Beyond this much noise a step moves the weights by noise alone; below it the guarantee is vacuous.
NOISE_BOUNDS = (0.3, 1000.0)

LARGEST_EPSILON = 1000.0

Unit = Literal["record", "client"]
Neighbouring = Literal["add or remove one record", "add or remove one client", "zero out one client"]


@dataclass(frozen=True, kw_only=True)
class _Protected:
    """What follows from the unit.

    Attributes:
        neighbouring: the relations that are about it.
        plural: the units, in words.
        below: what delta has to be below.
        population: says how many units there are.
        counted: what the population counts, in words.
        implied: which public constants imply the population; empty where it is a count.
        adaptive: whether the norms of its contributions may be counted to adapt the clipping norm.
    """

    neighbouring: frozenset[str]
    plural: str
    below: str
    population: str
    counted: str
    implied: str
    adaptive: bool


PROTECTED: dict[Unit, _Protected] = {
    "record": _Protected(
        neighbouring=frozenset({"add or remove one record"}),
        plural="single records",
        below="1 / records of a client",
        population="batch size {divisor} / sampling rate {sampling_rate:g} means {population:g} records",
        counted="records of a client",
        implied="batch size / sampling rate",
        adaptive=False,
    ),
    "client": _Protected(
        neighbouring=frozenset({"add or remove one client", "zero out one client"}),
        plural="whole clients",
        below="1 / clients",
        population="there are {population:g} clients",
        counted="clients",
        implied="",
        adaptive=True,
    ),
}


def plural_of(unit: Unit) -> str:
    """Return what charges of a unit protect, in words."""
    return PROTECTED[unit].plural


def counted_of(unit: Unit) -> tuple[str, str]:
    """Return what the population of a unit counts, and which public constants imply it; none where it is a count."""
    return PROTECTED[unit].counted, PROTECTED[unit].implied


# Whose contributions are replaced by zero, while everyone knows that it takes part: no draw can hide it.
_KNOWN_PARTICIPATION = frozenset({"zero out one client"})


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """Let the clipping norm follow a quantile of the norms (Andrew et al. 2021, algorithm 1).

    Attributes:
        quantile: the fraction of the contributions that is not to be clipped.
        learning_rate: rate of the geometric update of the clipping norm.
        count_noise: standard deviation of the noise on the count of contributions that were not clipped, each counted
            as +1/2 or -1/2, so that one contribution moves the count by 1/2.
    """

    quantile: float
    learning_rate: float
    count_noise: float


@dataclass(frozen=True, kw_only=True)
class PrivacySpec:
    """A guarantee of differential privacy, in public constants only.

    Attributes:
        unit: what is protected: one record of a client, or one client with all its records.
        neighbouring: what two data sets differ in that are not to be told apart. To zero out a client is to replace its
            contribution by zero, while everyone knows that it took part.
        epsilon: the budget of each client over the whole run.
        delta: the delta of the budget.
        clip_norm: bound on the L2 norm of each record's gradient, or of each client's update; with adaptive clipping,
            of the first round.
        sampling_rate: probability with which each unit enters a step, independently (Poisson sampling); 1 if no
            sampling is counted on.
        divisor: divisor of the sum: a public constant (the expected batch size or cohort), never the size drawn.
        population: the public number of units: the expected records of a client, or the clients.
        steps_per_round: noised releases in a round.
        rounds: rounds that one client trains in at most.
        adaptive: how the clipping norm adapts; None if it is fixed.
        correlation: how the noise of the rounds is correlated; None if it is drawn anew in each.
        shares: how the noise is shared among the clients of a cohort; None if it is not.
    """

    unit: Unit
    neighbouring: Neighbouring
    epsilon: float
    delta: float
    clip_norm: float
    sampling_rate: float
    divisor: int
    population: float
    steps_per_round: int
    rounds: int
    adaptive: AdaptiveClipping | None = None
    correlation: Correlation | None = None
    shares: NoiseShares | None = None

    @property
    def steps(self) -> int:
        """All noised releases that a client takes part in at most."""
        return self.steps_per_round * self.rounds


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
        _check(plan.spec)
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
    _check(spec)

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


def _check(spec: PrivacySpec) -> None:
    if not 0 < spec.epsilon <= LARGEST_EPSILON:
        raise PrivacySpecError(
            f"epsilon = {spec.epsilon:g} is not allowed: it is above 0 and at most {LARGEST_EPSILON:g}; the odds of a "
            f"conclusion may change by a factor of exp(epsilon), and beyond that nothing is promised"
        )
    if not 0 < spec.sampling_rate <= 1:
        raise PrivacySpecError(f"sampling rate = {spec.sampling_rate:g} is not allowed: it is in (0, 1]")
    if not (isfinite(spec.clip_norm) and spec.clip_norm > 0):
        raise PrivacySpecError(f"clip norm = {spec.clip_norm:g} is not allowed: it is finite and above 0")
    if min(spec.divisor, spec.steps_per_round, spec.rounds) < 1:
        raise PrivacySpecError("divisor, steps a round and rounds are each at least 1")
    if spec.steps > MOST_STEPS:
        raise PrivacySpecError(
            f"{spec.rounds} rounds of {spec.steps_per_round} steps = {spec.steps} steps of one client are not allowed: "
            f"at most {MOST_STEPS} are; beyond that the accounting takes hours"
        )
    _check_population(spec)
    if spec.adaptive is not None:
        _check_adaptive(spec, spec.adaptive)
    if spec.correlation is not None:
        _check_correlation(spec, spec.correlation)
    if spec.shares is not None:
        spec.shares.check()


def _check_population(spec: PrivacySpec) -> None:
    protected = PROTECTED[spec.unit]
    if spec.neighbouring not in protected.neighbouring:
        raise PrivacySpecError(f'"{spec.neighbouring}" does not say what protects one {spec.unit}')
    if not (isfinite(spec.population) and spec.population >= 1):
        raise PrivacySpecError(f"population = {spec.population:g} is not allowed: it is finite and at least 1")
    expected = 1.0 if spec.neighbouring in _KNOWN_PARTICIPATION else spec.divisor / spec.population
    if not isclose(spec.sampling_rate, expected, rel_tol=1e-9):
        raise PrivacySpecError(
            f"sampling rate = {spec.sampling_rate:g} is not allowed: to {spec.neighbouring}, with divisor "
            f"{spec.divisor} and population {spec.population:g}, it is {expected:g}"
        )
    if not 0 < spec.delta < 1 / spec.population:
        why = protected.population.format_map(asdict(spec))
        raise PrivacySpecError(
            f"delta = {spec.delta:g} is not allowed: it must be below {protected.below}, and {why}, "
            f"so below {1 / spec.population:.3g}; a larger delta allows publishing a {spec.unit} outright"
        )


def _check_adaptive(spec: PrivacySpec, adaptive: AdaptiveClipping) -> None:
    if not PROTECTED[spec.unit].adaptive:
        raise PrivacySpecError("adaptive clipping is for client privacy: the norms of single records are not summed")
    if not 0 < adaptive.quantile < 1:
        raise PrivacySpecError(f"clipping quantile = {adaptive.quantile:g} is not allowed: it is in (0, 1)")
    for name, value in (("rate", adaptive.learning_rate), ("noise", adaptive.count_noise)):
        if not (isfinite(value) and value > 0):
            raise PrivacySpecError(f"clipping {name} = {value:g} is not allowed: it is finite and above 0")


def _check_correlation(spec: PrivacySpec, correlated: Correlation) -> None:
    if spec.neighbouring not in _KNOWN_PARTICIPATION or spec.steps_per_round != 1:
        raise PrivacySpecError("correlated noise is for whole clients in known cohorts, one release a round")
    if spec.adaptive is not None:
        raise PrivacySpecError(
            "correlated noise needs a clipping norm that is the same in all rounds: set privacy.adaptive_clipping = "
            "false"
        )
    if spec.shares is not None:
        raise PrivacySpecError("correlated noise is added by the server, and no client has a share of it")
    correlated.check(spec.rounds)


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
