"""A guarantee of differential privacy (a spec): what is protected, how well, and by which public constants."""

from dataclasses import asdict, dataclass
from math import isclose, isfinite
from typing import Literal

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.correlation import Correlation
from fedtrain.privacy.events import MOST_STEPS
from fedtrain.privacy.shares import NoiseShares

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
        covers: what the guarantee of one unit is about, and who is covered less, in words.
    """

    neighbouring: frozenset[str]
    plural: str
    below: str
    population: str
    counted: str
    implied: str
    adaptive: bool
    covers: str


PROTECTED: dict[Unit, _Protected] = {
    "record": _Protected(
        neighbouring=frozenset({"add or remove one record"}),
        plural="single records",
        below="1 / records of a client",
        population="batch size {divisor} / sampling rate {sampling_rate:g} means {population:g} records",
        counted="records of a client",
        implied="batch size / sampling rate",
        adaptive=False,
        covers="One record. Somebody with several records at a client is covered less, and the records of one person "
        "at several clients add up.",
    ),
    "client": _Protected(
        neighbouring=frozenset({"add or remove one client", "zero out one client"}),
        plural="whole clients",
        below="1 / clients",
        population="there are {population:g} clients",
        counted="clients",
        implied="",
        adaptive=True,
        covers="One client, with all its records. Somebody with records at several clients is covered less.",
    ),
}


def plural_of(unit: Unit) -> str:
    """Return what charges of a unit protect, in words."""
    return PROTECTED[unit].plural


def covered_by(unit: Unit) -> str:
    """Return what the guarantee of one unit is about, and who is covered less, in words."""
    return PROTECTED[unit].covers


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


def check_spec(spec: PrivacySpec) -> None:
    """Refuse a spec that is inconsistent, or that nothing can be proven for.

    Raises:
        PrivacySpecError: it names the constant, what is allowed, and the arithmetic.
    """
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
