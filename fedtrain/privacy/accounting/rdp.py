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
        return bounded(accountant.get_epsilon(delta), delta)
