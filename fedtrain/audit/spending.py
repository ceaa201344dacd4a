"""What is charged to each client, from its ledger and the server's record alone."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedtrain.privacy import Event, merge


@dataclass(frozen=True, kw_only=True)
class Charge:
    """Steps that count for one client.

    Attributes:
        run: the run.
        round: the round; 0 for a whole run.
        event: the steps.
    """

    run: str
    round: int
    event: Event


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Everything that is charged to one client.

    Attributes:
        charges: each reservation of its ledger, and each question that it left unanswered.
        unanswered: the rounds of the latter.
    """

    charges: tuple[Charge, ...]
    unanswered: tuple[int, ...]

    def events(self, run: str | None = None) -> tuple[Event, ...]:
        """Return the steps of one run, or of all, merged: equal charges give equal tuples, in whatever order."""
        return _merged(charge for charge in self.charges if run is None or charge.run == run)

    def cumulative(self, run: str, rounds: Sequence[int]) -> tuple[tuple[Event, ...], ...]:
        """Return all steps but those of later rounds of a run, merged, for each of some rounds in ascending order."""
        later = sorted((charge for charge in self.charges if charge.run == run), key=lambda charge: charge.round)
        merged = _merged(charge for charge in self.charges if charge.run != run)
        points, place = [], 0
        for number in rounds:
            end = bisect_right(later, number, key=lambda charge: charge.round)
            merged = merge((*merged, *(charge.event for charge in later[place:end])))
            points.append(merged)
            place = end
        return tuple(points)


def _merged(charges: Iterable[Charge]) -> tuple[Event, ...]:
    return merge(charge.event for charge in charges)
