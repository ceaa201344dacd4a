"""Events: what was done to the records, as data that anyone can account for again.

An event is so many steps of one mechanism. The family is open: a kind of event is a class with the members of `Event`,
registered by ``register_event``, and read back by its name. Accountants name the kinds that they can compose. An event
that none of them knows is refused before it is charged to anybody.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt
from typing import ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from fedtrain.errors import PrivacySpecError

KIND = "poisson-sampled-gaussian"
SKELLAM = "poisson-sampled-skellam"

# What no plan contains, accountants need not be able to compose.
_RATES = (1e-7, 1.0)
_NOISES = (0.01, 1e4)
_WHOLE = 2**53 - 1  # beyond it a JSON number is not exact in every reader
MOST_STEPS = 10**6

NOISE_DISTANCE = 2.0**-96
"""By how much, in total variation, the integer noise on one value may differ from what its event says, all shares
together: 2^-105 for each of up to 512 shares. Accountants pay for it with delta."""


class Event(Protocol):
    """So many steps of one mechanism: immutable, hashable, equal to another that says the same."""

    @property
    def kind(self) -> str:
        """The kind of the mechanism, as its data names it."""

    @property
    def steps(self) -> int:
        """How many steps."""

    @property
    def noise_multiplier(self) -> float:
        """The noise over the bound on a contribution: what a site's minimum of noise is about."""

    @property
    def parameters(self) -> tuple[float, ...]:
        """What one step is. Events of one kind with equal parameters are steps of one mechanism, and add up."""

    def with_steps(self, steps: int) -> Self:
        """Return another number of steps of the same mechanism."""

    def check(self) -> None:
        """Refuse parameters outside of the mechanism's domain.

        Raises:
            PrivacySpecError: they are; it is said which.
        """

    def check_charge(self) -> None:
        """Refuse what no plan contains, and no ledger may hold.

        Raises:
            PrivacySpecError: it is that.
        """

    def as_data(self) -> dict[str, JsonValue]:
        """Return the event as a JSON object that names its kind."""


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """Steps of the Poisson-sampled Gaussian mechanism (Abadi et al. 2016; Mironov et al. 2019).

    In each step every record enters independently with ``sampling_rate``; the sum of their contributions, each of L2
    norm at most C, is released with Gaussian noise of standard deviation ``noise_multiplier * C``. With a rate of 1 it
    is the Gaussian mechanism. In client privacy "record" reads "client".
    """

    kind: ClassVar[str] = KIND

    sampling_rate: float
    noise_multiplier: float
    steps: int

    @property
    def parameters(self) -> tuple[float, float]:
        """The sampling rate and the noise multiplier."""
        return (self.sampling_rate, self.noise_multiplier)

    def with_steps(self, steps: int) -> Self:
        """Return another number of steps with the same sampling rate and noise."""
        return replace(self, steps=steps)

    def check(self) -> None:
        """Refuse what is no Poisson-sampled Gaussian.

        Raises:
            PrivacySpecError: a rate, a noise multiplier or a number of steps outside of the domain.
        """
        valid = 0 < self.sampling_rate <= 1 and self.noise_multiplier > 0 and self.steps >= 0
        if not (valid and isfinite(self.noise_multiplier)):
            raise PrivacySpecError(
                f"{self} is not a Poisson-sampled Gaussian: the sampling rate is in (0, 1], the noise multiplier "
                "finite and above 0, the number of steps not negative"
            )

    def check_charge(self) -> None:
        """Refuse what no plan contains. A negative number of steps would take a charge back.

        Raises:
            PrivacySpecError: it is that.
        """
        rate, noise = self.sampling_rate, self.noise_multiplier
        if not (_RATES[0] <= rate <= _RATES[1] and _NOISES[0] <= noise <= _NOISES[1] and 1 <= self.steps <= MOST_STEPS):
            raise PrivacySpecError(
                f"{self} cannot be charged: the sampling rate is in {_RATES}, the noise multiplier in {_NOISES}, and "
                f"there are 1 to {MOST_STEPS} steps"
            )

    def as_data(self) -> dict[str, JsonValue]:
        """Return the event as a JSON object that names its kind."""
        return {
            "kind": KIND,
            "sampling_rate": self.sampling_rate,
            "noise_multiplier": self.noise_multiplier,
            "steps": self.steps,
        }

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Return the event of a JSON object as ``as_data`` makes it.

        Raises:
            PrivacySpecError: another kind of event, or other fields or types than those of this kind.
        """
        event = _validated(_GaussianData, KIND, data)
        return cls(sampling_rate=event.sampling_rate, noise_multiplier=event.noise_multiplier, steps=event.steps)


@dataclass(frozen=True, kw_only=True)
class SampledSkellam:
    """Steps of the Poisson-sampled Skellam mechanism (Agarwal, Kairouz, Liu 2021): the sum of shares of integer noise.

    In each step every record enters independently with ``sampling_rate``; a vector of integers that is summed over them
    is released with Skellam noise on each coordinate: the difference of two Poisson variables of mean ``variance / 2``.
    Sums of Skellam shares are Skellam, of the sum of their variances. In client privacy "record" reads "client".

    Example:
        >>> noise = 40_000**2
        >>> SampledSkellam(
        ...     sampling_rate=0.04, variance=noise, l2=40_000, l1=4_000_000, values=10_000, steps=1
        ... ).noise_multiplier
        1.0

    Attributes:
        sampling_rate: with which each record enters a step; 1 if no sampling is counted on.
        variance: of the noise on a coordinate, in squared grid steps: of those shares alone that are counted on.
        l2: bound on the L2 norm of what one record changes in the vector, in grid steps, after rounding.
        l1: bound on the L1 norm of the same.
        values: coordinates of the vector.
        steps: how many steps.
    """

    kind: ClassVar[str] = SKELLAM

    sampling_rate: float
    variance: int
    l2: int
    l1: int
    values: int
    steps: int

    @property
    def noise_multiplier(self) -> float:
        """The standard deviation of the noise over the bound on the L2 norm."""
        return sqrt(self.variance) / self.l2

    @property
    def parameters(self) -> tuple[float, int, int, int, int]:
        """The sampling rate, the variance, both bounds and the number of values."""
        return (self.sampling_rate, self.variance, self.l2, self.l1, self.values)

    def with_steps(self, steps: int) -> Self:
        """Return another number of steps of the same mechanism."""
        return replace(self, steps=steps)

    def check(self) -> None:
        """Refuse what is no Poisson-sampled Skellam.

        Raises:
            PrivacySpecError: a rate, a number, or bounds that no vector of integers has.
        """
        numbers = (self.variance, self.l2, self.l1, self.values, self.steps)
        whole = all(type(number) is int for number in numbers)  # a bool is no number of anything
        if not (whole and 0 < self.sampling_rate <= 1 and min(numbers[:-1]) >= 1 and self.steps >= 0):
            raise PrivacySpecError(
                f"{self} is not a Poisson-sampled Skellam: the sampling rate is in (0, 1], variance, bounds and values "
                "are whole numbers above 0, the number of steps not negative"
            )
        if self.l1 < self.l2:
            raise PrivacySpecError(f"{self} is not a Poisson-sampled Skellam: an L1 norm is at least the L2 norm")

    def check_charge(self) -> None:
        """Refuse what no plan contains.

        Raises:
            PrivacySpecError: it is that.
        """
        self.check()
        rate, noise = self.sampling_rate, self.noise_multiplier
        largest = max(self.variance, self.l1, self.values)
        if not (
            _RATES[0] <= rate <= _RATES[1]
            and _NOISES[0] <= noise <= _NOISES[1]
            and 1 <= self.steps <= MOST_STEPS
            and largest <= _WHOLE
        ):
            raise PrivacySpecError(
                f"{self} cannot be charged: the sampling rate is in {_RATES}, the noise multiplier in {_NOISES}, there "
                f"are 1 to {MOST_STEPS} steps, and no number is above {_WHOLE}"
            )

    def as_data(self) -> dict[str, JsonValue]:
        """Return the event as a JSON object that names its kind."""
        return {"kind": SKELLAM, **asdict(self)}

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Return the event of a JSON object as ``as_data`` makes it.

        Raises:
            PrivacySpecError: another kind of event, or other fields or types than those of this kind.
        """
        return cls(**_validated(_SkellamData, SKELLAM, data).model_dump(exclude={"kind"}))


class _EventData(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _GaussianData(_EventData):
    kind: Literal["poisson-sampled-gaussian"]
    sampling_rate: float
    noise_multiplier: float
    steps: int


class _SkellamData(_EventData):
    kind: Literal["poisson-sampled-skellam"]
    sampling_rate: float
    variance: int
    l2: int
    l1: int
    values: int
    steps: int


D = TypeVar("D", bound=_EventData)


def _validated(model: type[D], kind: str, data: object) -> D:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "event"
        raise PrivacySpecError(f"not an event of kind {kind}: {where}: {first['msg']}") from error


_READERS: dict[str, Callable[[object], Event]] = {}


def register_event(kind: str, read: Callable[[object], Event]) -> None:
    """Let events of a kind be read.

    Args:
        kind: the name that their data has.
        read: returns the event of a JSON object; raises ``PrivacySpecError`` for one that is malformed.

    Raises:
        ValueError: the kind is registered already.
    """
    if kind in _READERS:
        raise ValueError(f"events of kind {kind!r} are registered already")
    _READERS[kind] = read


def read_event(data: object) -> Event:
    """Return the event of a JSON object, of whatever kind it names.

    Raises:
        PrivacySpecError: no kind, one that is not registered, or other fields or types than those of its kind.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _READERS:
        known = ", ".join(sorted(_READERS))
        raise PrivacySpecError(f"not an event: its kind is {kind!r}, and known kinds are {known}")
    return _READERS[kind](data)


register_event(KIND, SampledGaussian.from_data)
register_event(SKELLAM, SampledSkellam.from_data)


def sampled_gaussian(event: Event) -> SampledGaussian:
    """Return an event whose parameters are asked for, if it is a Poisson-sampled Gaussian.

    Raises:
        PrivacySpecError: it is of another kind.
    """
    if not isinstance(event, SampledGaussian):
        raise PrivacySpecError(f"an event of kind {event.kind!r} is no {KIND}, and has other parameters")
    return event


E = TypeVar("E", bound=Event)


def merge(events: Iterable[E]) -> tuple[E, ...]:
    """Join events of the same mechanism into one. Order does not matter to their composition."""
    steps: dict[tuple[str, tuple[float, ...]], int] = {}
    first: dict[tuple[str, tuple[float, ...]], E] = {}
    for event in events:
        key = (event.kind, event.parameters)
        first.setdefault(key, event)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(first[key].with_steps(count) for key, count in sorted(steps.items()))
