"""What every accountant is, and what it accepts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from math import fsum, isfinite
from typing import ClassVar

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.events import Event, SampledGaussian, SampledSkellam, merge

GAUSSIANS = frozenset({SampledGaussian.kind})

COMPOSED = GAUSSIANS | {SampledSkellam.kind}
"""The kinds of events that some accountant composes."""


@dataclass(frozen=True, kw_only=True)
class Accountant(ABC):
    """Bounds what a composition of mechanisms spends.

    Contract (tests/contract/test_accountants.py): nothing spends zero; more steps, a higher rate, less noise or a
    smaller delta never spend less; order and grouping do not matter; the result is finite and not negative, or an
    exception. Implementations are immutable and can be hashed.

    Attributes:
        name: the library and the method.
        library: the package that computes it.
        kinds: the kinds of events that it can compose.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = GAUSSIANS

    @property
    def version(self) -> str:
        """The version of the library."""
        return version(self.library)

    @abstractmethod
    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
        """


def checked(events: Iterable[Event], delta: float) -> tuple[Event, ...]:
    """Return the events that spend anything, merged and in a fixed order.

    Raises:
        PrivacySpecError: a delta or an event that no accountant accepts.
    """
    if not 0 < delta < 1:
        raise PrivacySpecError(f"delta = {delta:g} is not allowed: it is in (0, 1)")
    found = tuple(events)
    for event in found:
        event.check()
    return tuple(event for event in merge(found) if event.steps)


def composable(events: Iterable[Event], delta: float) -> tuple[SampledGaussian | SampledSkellam, ...]:
    """Return the events that spend anything, for an accountant that composes Gaussian and Skellam noise.

    Raises:
        PrivacySpecError: as for `checked`, or an event of another kind.
    """
    found = checked(events, delta)
    known = tuple(event for event in found if isinstance(event, SampledGaussian | SampledSkellam))
    if len(known) < len(found):
        others = sorted({event.kind for event in found} - COMPOSED)
        raise PrivacySpecError(f"it does not compose events of kind {', '.join(others)}")
    return known


def gaussians(events: Iterable[Event], delta: float) -> tuple[SampledGaussian, ...]:
    """Return the events that spend anything, for an accountant that composes Poisson-sampled Gaussians alone.

    Raises:
        PrivacySpecError: as for `checked`, or an event of another kind.
    """
    found = checked(events, delta)
    sampled = tuple(event for event in found if isinstance(event, SampledGaussian))
    if len(sampled) < len(found):
        others = sorted({event.kind for event in found} - GAUSSIANS)
        raise PrivacySpecError(f"it does not compose events of kind {', '.join(others)}")
    return sampled


def folded(events: tuple[SampledGaussian, ...]) -> tuple[SampledGaussian, ...]:
    """Return merged events with those without sampling joined into one step, which is exactly the same mechanism.

    Gaussian mechanisms compose to one Gaussian mechanism, of noise ``(sum of steps / noise^2)^(-1/2)``.
    """
    sampled = tuple(event for event in events if event.sampling_rate < 1)
    whole = [event.steps / event.noise_multiplier**2 for event in events if event.sampling_rate == 1]
    if not whole:
        return sampled
    joined = SampledGaussian(sampling_rate=1.0, noise_multiplier=fsum(whole) ** -0.5, steps=1)
    return (*sampled, joined)


def bounded(epsilon: float, delta: float) -> float:
    """Return an accountant's result, if it is one.

    Raises:
        PrivacySpecError: it is not a number, infinite or negative.
    """
    if not (isfinite(epsilon) and epsilon >= 0):
        raise PrivacySpecError(f"it gives epsilon {epsilon:g} at delta {delta:g}, which bounds nothing")
    return float(epsilon)
