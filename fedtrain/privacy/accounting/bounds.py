"""How much privacy a sequence of events spends.

Three accountants bound it: privacy loss distributions and Renyi divergences, the smaller of which is the claim; privacy
loss random variables of another library, which are the second opinion; and Renyi divergences, the ceiling, which the
others fall back to. Where there is integer noise among the events, others of the same methods stand for the first and
the last (`fedtrain.privacy.accounting.mixed`). A GDP (central limit) approximation is not among them: it can be below
the true epsilon.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting.base import GAUSSIANS, Accountant, checked
from fedtrain.privacy.events import Event

if TYPE_CHECKING:
    from fedtrain.privacy.accounting.mixed import GaussianPldAccountant
    from fedtrain.privacy.accounting.pld import PldAccountant

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

    Zero if there are no steps. The result does not depend on the order or grouping of the events. It is the smaller of
    two bounds: that of privacy loss distributions, and the ceiling, which is the smaller one where rounding or a coarse
    grid loosen the first, or where there is none. A note says why it is the ceiling.

    Raises:
        PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
    """
    found = checked(events, delta)
    pld, rdp = _tight(found, discretization), _loose(found)
    bound = _first_bound((pld, rdp), found, delta)
    if bound.accountant != pld.name or pld.tight(found, delta, bound.epsilon):
        return bound
    try:
        other = _first_bound((rdp,), found, delta)
    except PrivacySpecError:
        return bound
    if other.epsilon >= bound.epsilon:
        return bound
    return replace(other, note=f"{pld.name} gave a larger bound")


def second_opinion(events: Iterable[Event], delta: float) -> Bound:
    """Return the bound of an independent implementation; the ceiling where that cannot give one, with a note.

    Raises:
        PrivacySpecError: as for ``claim``.
    """
    from fedtrain.privacy.accounting.prv import PrvAccountant  # noqa: PLC0415 - it takes three seconds to import

    found = checked(events, delta)
    return _first_bound((PrvAccountant(), _loose(found)), found, delta)


def ceiling(events: Iterable[Event], delta: float) -> Bound:
    """Return a bound that is never below the true epsilon, and larger than the others.

    Raises:
        PrivacySpecError: as for ``claim``.
    """
    found = checked(events, delta)
    return _first_bound((_loose(found),), found, delta)


# Accountants are imported where they are used: that takes a second, and Opacus three, which a run without privacy need
# not wait for.


def _tight(events: tuple[Event, ...], discretization: float) -> "PldAccountant | GaussianPldAccountant":
    """Return the accountant of the claim."""
    if _integers(events):
        from fedtrain.privacy.accounting.mixed import GaussianPldAccountant  # noqa: PLC0415 - as above

        return GaussianPldAccountant(discretization=discretization)
    from fedtrain.privacy.accounting.pld import PldAccountant  # noqa: PLC0415 - as above

    return PldAccountant(discretization=discretization)


def _loose(events: tuple[Event, ...]) -> Accountant:
    """Return the accountant of the ceiling."""
    if _integers(events):
        from fedtrain.privacy.accounting.mixed import IntegerRdpAccountant  # noqa: PLC0415 - as above

        return IntegerRdpAccountant()
    from fedtrain.privacy.accounting.rdp import RdpAccountant  # noqa: PLC0415 - as above

    return RdpAccountant()


def _integers(events: tuple[Event, ...]) -> bool:
    return not {event.kind for event in events} <= GAUSSIANS


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
