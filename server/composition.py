"""The grids of a run, one around another: each adds what the mode needs."""

from dataclasses import dataclass

from fedtrain.flower import protocol
from fedtrain.flower.checked import CheckedGrid
from fedtrain.flower.ledgered import LedgerGrid
from fedtrain.flower.participation import DrawnGrid, ParticipationGrid
from fedtrain.flower.transport import SecAggGrid
from server.link import Link
from server.preparation import Preparation
from server.proof import Proof

_METRICS = {
    "none": frozenset({protocol.WEIGHT, protocol.LOSS}),
    "record": frozenset({protocol.WEIGHT}),
    "client": frozenset({protocol.WEIGHT, protocol.WITHIN_CLIP}),
}


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The grids of a run that are spoken to.

    Attributes:
        grid: the one that the strategy sees, which offers it the nodes that were drawn for a round.
        participation: the one that says which nodes a cohort may be drawn from; ``None`` if cohorts are Poisson.
        summed: the one that sums updates, where the server sees sums alone.
    """

    grid: DrawnGrid
    participation: ParticipationGrid | None
    summed: SecAggGrid | None


def compose(link: Link, preparation: Preparation, proof: Proof | None, *, done: int) -> Composition:
    """Put the grids of a run around the one of its link.

    Args:
        link: the way to the clients.
        preparation: what was made before.
        proof: the record of a private run; ``None`` without privacy.
        done: rounds that are complete.
    """
    federation, mode = preparation.experiment.federation, preparation.experiment.privacy.mode
    grid = link.grid
    if proof is not None:
        grid = LedgerGrid(
            grid,
            clients=link.clients,
            copies=proof.copies,
            refused=proof.refused,
            run=proof.run,
            plan=proof.plan.digest,
            per_round=not proof.withheld,
            opened=link.summing is None,
        )
    summed = None
    if link.summing is not None and link.session is not None:
        grid = summed = SecAggGrid(grid, clients=link.clients, session=link.session, summing=link.summing)
    else:
        grid = CheckedGrid(
            grid,
            metrics=_METRICS[mode],
            weight_key=protocol.WEIGHT,
            public_weight=None if proof is None else 1.0,
            indicator=protocol.WITHIN_CLIP if mode == "client" else None,
        )
    if proof is not None and proof.withheld:
        return Composition(grid=DrawnGrid(grid), participation=None, summed=None)
    participation = ParticipationGrid(
        grid,
        clients=link.clients,
        maximum=federation.rounds if proof is None else proof.plan.spec.rounds,
        cohort=federation.cohort,
        counts={} if proof is None else proof.participations(done=done),
        refused=() if proof is None else proof.refused,
        patience=federation.deadline,
    )
    return Composition(grid=DrawnGrid(participation), participation=participation, summed=summed)
