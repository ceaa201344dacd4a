"""Accountants of integer noise, alone or mixed with Gaussian noise in one ledger.

`GaussianPldAccountant` composes the Gaussian mechanism that each Skellam mechanism is close to, by the accountant of
Gaussians: tight on fine grids. `IntegerRdpAccountant` adds up Renyi divergences at whole orders: it holds on any grid,
and is looser. What both rest on is proven in `fedtrain.privacy.accounting.integers`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import fsum, inf, isfinite, log, log1p
from operator import mul

from fedtrain import __version__
from fedtrain.privacy.accounting import integers
from fedtrain.privacy.accounting.base import COMPOSED, Accountant, bounded, composable
from fedtrain.privacy.accounting.pld import GRIDS, PldAccountant
from fedtrain.privacy.accounting.rounding import ROUNDING
from fedtrain.privacy.events import Event, SampledGaussian, SampledSkellam

# Noise that is less by so little makes epsilon larger by a fraction of a per cent.
_CLOSE = 0.9995

# Every order up to 64, then by a tenth.
_DENSE, _RATIO = 64, 1.1


def _orders() -> tuple[int, ...]:
    orders = [*range(2, _DENSE + 1)]
    while orders[-1] < integers.LARGEST_ORDER:
        orders.append(min(int(orders[-1] * _RATIO), integers.LARGEST_ORDER))
    return tuple(orders)


ORDERS = _orders()


@dataclass(frozen=True, kw_only=True)
class GaussianPldAccountant(Accountant):
    """Composes the Gaussians that Skellam mechanisms are close to.

    Attributes:
        discretization: the grid of the privacy loss, as for `PldAccountant`.
    """

    discretization: float = GRIDS[0]

    name = "dp-accounting PLD of close Gaussians, pessimistic"
    library = "dp-accounting"
    kinds = COMPOSED

    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, noise on too coarse a grid for ``delta``, or a
                composition that cannot be bounded.
        """
        found = composable(events, delta)
        apart = integers.distance(found, of_gaussian=True)
        return integers.paid_for(lambda left: self._pld.epsilon(_close(found), left), delta, apart)

    def tight(self, events: Iterable[Event], delta: float, epsilon: float) -> bool:
        """Return whether the epsilon that this accountant gave is at most about a per cent above the true one."""
        found = composable(events, delta)
        close = _close(found)
        least = min(
            (each.noise_multiplier / event.noise_multiplier for each, event in zip(close, found, strict=True)),
            default=1.0,
        )
        return least >= _CLOSE and self._pld.tight(close, delta, epsilon)

    @property
    def _pld(self) -> PldAccountant:
        return PldAccountant(discretization=self.discretization)


def _close(events: tuple[SampledGaussian | SampledSkellam, ...]) -> tuple[SampledGaussian, ...]:
    return tuple(integers.gaussian(event) if isinstance(event, SampledSkellam) else event for event in events)


@dataclass(frozen=True, kw_only=True)
class IntegerRdpAccountant(Accountant):
    """Adds up Renyi divergences at whole orders.

    The sum is converted by proposition 12 of Canonne, Kamath, Steinke 2020.
    """

    name = "fedtrain RDP at whole orders"
    library = "fedtrain"
    kinds = COMPOSED

    @property
    def version(self) -> str:
        """The version of fedtrain."""
        return __version__

    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, or noise that is not exact enough for
                ``delta``.
        """
        found = composable(events, delta)
        if not found:
            return 0.0
        moments = [_moments(event.with_steps(1)) for event in found]
        steps = [event.steps for event in found]
        totals = [fsum(map(mul, steps, of_order)) for of_order in zip(*moments, strict=True)]
        apart = integers.distance(found, of_gaussian=False)
        return bounded(integers.paid_for(lambda left: _converted(totals, left), delta, apart), delta)


@lru_cache(maxsize=1024)
def _moments(event: SampledGaussian | SampledSkellam) -> tuple[float, ...]:
    return tuple(integers.moment(event, order) for order in ORDERS)


def _converted(moments: list[float], delta: float) -> float:
    """Return the least epsilon of all orders, raised by what rounding can lower it."""
    least = inf
    for order, moment in zip(ORDERS, moments, strict=True):
        terms = (moment / (order - 1), log1p(-1 / order), -log(delta) / (order - 1), -log(order) / (order - 1))
        epsilon = fsum(terms) + 16 * ROUNDING * fsum(map(abs, terms))
        if isfinite(epsilon):
            least = min(least, epsilon)
    return max(least, 0.0)
