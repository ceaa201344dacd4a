"""Renyi differential privacy (RDP) by dp-accounting: the ceiling.

An upper bound (Mironov 2017; Mironov et al. 2019; conversion by Canonne et al. 2020) that is larger than the others and
holds where they give up.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.rdp import RdpAccountant as Rdp

from fedtrain.privacy.accounting.base import Accountant, bounded, folded, gaussians
from fedtrain.privacy.events import Event

_PRECISION = 2.0**-40


def _leaves_an_order_out(record: logging.LogRecord) -> bool:
    return "Excluding this order" in str(record.msg)


# An order that does not converge is left out, which only loosens the bound; dp-accounting warns of each.
logging.getLogger("absl").addFilter(lambda record: not _leaves_an_order_out(record))


@dataclass(frozen=True, kw_only=True)
class RdpAccountant(Accountant):
    """Composes Renyi divergences of many orders."""

    name = "dp-accounting RDP"
    library = "dp-accounting"

    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
        """
        composed = folded(gaussians(events, delta))
        if not composed:
            return 0.0
        accountant = Rdp(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
        for event in composed:
            gaussian = dp_event.GaussianDpEvent(event.noise_multiplier)
            accountant.compose(dp_event.PoissonSampledDpEvent(event.sampling_rate, gaussian), event.steps)
        epsilon, order = accountant.get_epsilon_and_optimal_order(delta)
        return bounded(epsilon + _rounded(epsilon, float(order), sum(event.steps for event in composed)), delta)


def _rounded(epsilon: float, order: float, steps: int) -> float:
    """Return by how much rounding can lower a bound.

    dp-accounting adds up the logarithm of a moment until terms are below e^-30 of it, and divides it by the order less
    1.
    """
    return _PRECISION * (epsilon + steps / max(order - 1, _PRECISION)) if epsilon else 0.0
