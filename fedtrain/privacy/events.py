"""Events: what was done to the records, as data that anyone can account for again.

An event is so many steps of one mechanism. The family is open: a kind of event is a class with the members of `Event`,
registered by ``register_event``, and read back by its name. Accountants name the kinds that they can compose. An event
that none of them knows is refused before it is charged to anybody.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import isfinite
from typing import ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from fedtrain.errors import PrivacySpecError

KIND = "poisson-sampled-gaussian"

# What no plan contains, accountants need not be able to compose.
_RATES = (1e-7, 1.0)
_NOISES = (0.01, 1e4)
MOST_STEPS = 10**6


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
        try:
            event = _EventData.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "event"
            raise PrivacySpecError(f"not an event of kind {KIND}: {where}: {first['msg']}") from error
        return cls(sampling_rate=event.sampling_rate, noise_multiplier=event.noise_multiplier, steps=event.steps)


class _EventData(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["poisson-sampled-gaussian"]
    sampling_rate: float
    noise_multiplier: float
    steps: int


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
