"""How much privacy a sequence of events spends.

Three accountants bound it: privacy loss distributions are the claim, privacy loss random
variables of another library the second opinion, Renyi divergences the ceiling, and what the others fall back to. A GDP
(central limit) approximation is not among them: it can be below the true epsilon.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting.base import Accountant, checked
from fedtrain.privacy.events import Event

ACCOUNTANT = "dp-accounting PLD, pessimistic"

# Grids of the privacy loss. Each gives an upper bound; the coarse one is about ten times faster, and looser by about
# 1e-6 / 3 for each step.
FINE = 1e-4
COARSE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An upper bound on epsilon, and where it is from.

    Attributes:
        epsilon: the bound: finite, not negative.
        accountant: the library and the method.
        version: the version of the library.
        note: why it is not of the accountant that was asked for; None if it is.
    """

    epsilon: float
    accountant: str
    version: str
    note: str | None = None


def epsilon_of(events: Iterable[Event], delta: float, *, discretization: float = FINE) -> float:
    """Return the epsilon of ``claim``."""
    return claim(events, delta, discretization=discretization).epsilon


def claim(events: Iterable[Event], delta: float, *, discretization: float = FINE) -> Bound:
    """Return an upper bound on the epsilon that all events together spend at ``delta``.

    Zero if there are no steps. The result does not depend on the order or grouping of the events. Where the privacy
    loss distribution cannot be composed, the bound is the ceiling, and its note says why.

    Raises:
        PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
    """
    # Imported where they are used: they take a second, and Opacus three, which a run without privacy need not wait for.
    from fedtrain.privacy.accounting.pld import PldAccountant  # noqa: PLC0415 - it takes a second to import
    from fedtrain.privacy.accounting.rdp import RdpAccountant  # noqa: PLC0415 - it takes a second to import

    return first_bound((PldAccountant(discretization=discretization), RdpAccountant()), events, delta)


def second_opinion(events: Iterable[Event], delta: float) -> Bound:
    """Return the bound of an independent implementation; the ceiling where that cannot give one, with a note.

    Raises:
        PrivacySpecError: as for ``claim``.
    """
    from fedtrain.privacy.accounting.prv import PrvAccountant  # noqa: PLC0415 - it takes a second to import
    from fedtrain.privacy.accounting.rdp import RdpAccountant  # noqa: PLC0415 - it takes a second to import

    return first_bound((PrvAccountant(), RdpAccountant()), events, delta)


def ceiling(events: Iterable[Event], delta: float) -> Bound:
    """Return a bound that is never below the true epsilon, and larger than the others.

    Raises:
        PrivacySpecError: as for ``claim``.
    """
    from fedtrain.privacy.accounting.rdp import RdpAccountant  # noqa: PLC0415 - it takes a second to import

    return first_bound((RdpAccountant(),), events, delta)


def first_bound(accountants: Sequence[Accountant], events: Iterable[Event], delta: float) -> Bound:
    """Return the bound of the first accountant that gives one: finite and not negative.

    Raises:
        PrivacySpecError: an event outside of the mechanism's domain, or no accountant gives a bound.
    """
    return _first_bound(tuple(accountants), checked(events, delta), delta)


@lru_cache(maxsize=4096)
def _first_bound(accountants: tuple[Accountant, ...], events: tuple[Event, ...], delta: float) -> Bound:
    failures: list[str] = []
    kinds = {event.kind for event in events}
    for accountant in accountants:
        if strange := sorted(kinds - accountant.kinds):
            failures.append(f"{accountant.name} does not compose events of kind {', '.join(strange)}")
            continue
        try:
            epsilon = accountant.epsilon(events, delta)
        except Exception as error:  # noqa: BLE001 - a numerical library raises anything, and another one is at hand
            failures.append(f"{accountant.name} gave no bound: {str(error) or type(error).__name__}")
            continue
        if 0 <= epsilon < float("inf"):
            note = "; ".join(failures) or None
            return Bound(epsilon=epsilon, accountant=accountant.name, version=accountant.version, note=note)
        failures.append(f"{accountant.name} gave no bound: epsilon {epsilon:g}")
    raise PrivacySpecError(f"the epsilon at delta {delta:g} cannot be bounded: {'; '.join(failures)}")
