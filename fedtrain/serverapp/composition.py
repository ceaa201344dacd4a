"""The grids of a run, one around another: each adds what the mode needs."""

from dataclasses import dataclass

from fedtrain.flower.collectors import SecAggGrid
from fedtrain.flower.grids.ledger import LedgerGrid
from fedtrain.flower.grids.validating import ValidatingGrid
from fedtrain.flower.messages import protocol
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.sampling import DrawnGrid, ParticipationGrid

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


def compose(channel: Channel, preparation: Preparation, trail: AuditTrail | None, *, done: int) -> Composition:
    """Put the grids of a run around the one of its channel.

    Args:
        channel: the way to the clients.
        preparation: what was made before.
        trail: the record of a private run; ``None`` without privacy.
        done: rounds that are complete.
    """
    federation, mode = preparation.experiment.federation, preparation.experiment.privacy.mode
    grid = channel.grid
    if trail is not None:
        grid = LedgerGrid(
            grid,
            clients=channel.clients,
            copies=trail.copies,
            refused=trail.refused,
            run=trail.run,
            plan=trail.plan.digest,
            per_round=not trail.withheld,
            opened=channel.summing is None,
        )
    summed = None
    if channel.summing is not None and channel.session is not None:
        grid = summed = SecAggGrid(grid, clients=channel.clients, session=channel.session, summing=channel.summing)
    else:
        grid = ValidatingGrid(
            grid,
            metrics=_METRICS[mode],
            weight_key=protocol.WEIGHT,
            public_weight=None if trail is None else 1.0,
            indicator=protocol.WITHIN_CLIP if mode == "client" else None,
        )
    if trail is not None and trail.withheld:
        return Composition(grid=DrawnGrid(grid), participation=None, summed=None)
    participation = ParticipationGrid(
        grid,
        clients=channel.clients,
        maximum=federation.rounds if trail is None else trail.plan.spec.rounds,
        cohort=federation.cohort,
        counts={} if trail is None else trail.participations(done=done),
        refused=() if trail is None else trail.refused,
        patience=federation.deadline,
    )
    return Composition(grid=DrawnGrid(participation), participation=participation, summed=summed)
