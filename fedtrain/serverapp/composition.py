"""The parts of a run that a round calls: what draws its cohort, the grids one around another, and the collector."""

from dataclasses import dataclass

from flwr.serverapp import Grid

from fedtrain.flower.collectors import Collector, EachReply, SecureSum
from fedtrain.flower.grids.ledger import LedgerGrid
from fedtrain.flower.grids.validating import ValidatingGrid
from fedtrain.flower.messages import protocol
from fedtrain.privacy.mechanisms import Mechanism, mechanism_of
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.sampling import FixedSampler, PoissonSampler, Sampler


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The parts of a run that a round calls.

    Attributes:
        sampler: draws the cohort.
        grid: where the nodes are.
        ledger: the stage that takes entries of ledgers out of replies; ``None`` without privacy.
        collector: asks the cohort.
        summed: whether it sums, so that the server sees sums alone.
    """

    sampler: Sampler
    grid: Grid
    ledger: LedgerGrid | None
    collector: Collector
    summed: bool


def compose(channel: Channel, preparation: Preparation, trail: AuditTrail | None, *, done: int) -> Composition:
    """Put the parts of a run together.

    Args:
        channel: the way to the clients.
        preparation: what was made before.
        trail: the record of a private run; ``None`` without privacy.
        done: rounds that are complete.
    """
    grid: Grid = channel.grid
    ledger = None
    if trail is not None:
        grid = ledger = LedgerGrid(
            grid,
            clients=channel.clients,
            copies=trail.copies,
            refused=trail.refused,
            run=trail.run,
            plan=trail.plan.digest,
            per_round=not trail.withheld,
            opened=channel.summing is None,
        )
    summed = channel.summing is not None
    if not summed:
        grid = _validating(grid, preparation, private=trail is not None)
    return Composition(
        sampler=_sampler(channel, preparation, trail, done=done),
        grid=grid,
        ledger=ledger,
        collector=_collector(grid, channel, deadline=preparation.experiment.federation.deadline),
        summed=summed,
    )


def _metrics(mechanism: Mechanism) -> frozenset[str]:
    """Return the names of the metrics that a reply has."""
    loss = set() if mechanism.private else {protocol.LOSS}
    within = {protocol.WITHIN_CLIP} if mechanism.clips_updates else set()
    return frozenset({protocol.WEIGHT, *loss, *within})


def _validating(grid: Grid, preparation: Preparation, *, private: bool) -> ValidatingGrid:
    mechanism = mechanism_of(preparation.experiment)
    return ValidatingGrid(
        grid,
        metrics=_metrics(mechanism),
        weight_key=protocol.WEIGHT,
        public_weight=1.0 if private else None,
        indicator=protocol.WITHIN_CLIP if mechanism.clips_updates else None,
    )


def _collector(grid: Grid, channel: Channel, *, deadline: float) -> Collector:
    if channel.summing is None or channel.session is None:
        return EachReply(grid, deadline=deadline)
    return SecureSum(grid, clients=channel.clients, session=channel.session, summing=channel.summing)


def _sampler(channel: Channel, preparation: Preparation, trail: AuditTrail | None, *, done: int) -> Sampler:
    federation, seed = preparation.experiment.federation, preparation.experiment.seed
    if trail is not None and trail.withheld:
        return PoissonSampler(trail, clients=channel.clients, seed=seed)
    return FixedSampler(
        channel.grid,
        clients=channel.clients,
        maximum=federation.rounds if trail is None else trail.plan.spec.rounds,
        cohort=federation.cohort,
        counts={} if trail is None else trail.participations(done=done),
        seed=seed,
        refused=() if trail is None else trail.refused,
        patience=federation.deadline,
    )
