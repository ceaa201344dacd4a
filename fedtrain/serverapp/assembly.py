"""The parts of a run that a round calls: its sampler, the grids one around another, the collector, the strategy."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from fedtrain.config import Experiment
from fedtrain.config.strategies import results_needed
from fedtrain.flower.averaging import in_blocks
from fedtrain.flower.collectors import Collector, EachReply, SecureSum
from fedtrain.flower.grids.ledger import LedgerGrid
from fedtrain.flower.grids.validating import ValidatingGrid
from fedtrain.flower.messages import protocol
from fedtrain.privacy.mechanisms import Mechanism, mechanism_of
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.checkpoint import Arrays
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.sampling import FixedSampler, PoissonSampler, Sampler
from fedtrain.tasks import shared_names


@dataclass(frozen=True, kw_only=True)
class Assembly:
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


def assemble(channel: Channel, preparation: Preparation, trail: AuditTrail | None, *, done: int) -> Assembly:
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
    return Assembly(
        sampler=_sampler(channel, preparation, trail, done=done),
        grid=grid,
        ledger=ledger,
        collector=_collector(
            grid,
            channel,
            deadline=preparation.experiment.federation.deadline,
            minimum=0 if trail is not None and trail.withheld else results_needed(preparation.experiment),
        ),
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
        powered=protocol.LOSS if _raises_losses(preparation.experiment) else None,
        trained=shared_names(preparation.task, preparation.model),
        fixed=private,
        largest=mechanism.largest(preparation.plan) if preparation.plan is not None else 0,
    )


def _raises_losses(experiment: Experiment) -> bool:
    """Say whether the strategy weighs clients by a power of their losses, which may not be a whole one."""
    return experiment.server.strategy == "QFedAvg" and experiment.server.parameters.q != 0


def _collector(grid: Grid, channel: Channel, *, deadline: float, minimum: int) -> Collector:
    if channel.summing is None or channel.session is None:
        return EachReply(grid, deadline=deadline)
    return SecureSum(grid, clients=channel.clients, session=channel.session, summing=channel.summing, minimum=minimum)


def _sampler(channel: Channel, preparation: Preparation, trail: AuditTrail | None, *, done: int) -> Sampler:
    federation, seed = preparation.experiment.federation, preparation.experiment.seed
    if trail is not None and trail.withheld:
        return PoissonSampler(trail, clients=channel.clients, seed=seed)
    asking = {}
    if trail is not None and trail.keys.when_drawn:
        asking["meet"] = partial(trail.meet, channel.grid, channel.clients, timeout=federation.deadline)
    correlation = None if trail is None else trail.plan.spec.correlation
    return FixedSampler(
        channel.grid,
        clients=channel.clients,
        maximum=federation.rounds if trail is None else trail.plan.spec.rounds,
        cohort=federation.cohort,
        counts={} if trail is None else trail.participations(done=done),
        seed=seed,
        refused=() if trail is None else trail.refused,
        timeout=federation.deadline,
        separation=1 if correlation is None else correlation.separation,
        latest={} if trail is None else trail.latest(done=done),
        recounts=trail is not None and trail.noise == "secure",
        **asking,
    )


# Strategies that aggregate as FedAvg does, and go on from its mean.
_OF_FEDAVG = frozenset({"FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"})
# Everything that a strategy of Flower 1.41 carries from round to round, besides the model itself.
_MEMORY = ("m_t", "v_t", "momentum_vector")


def build_strategy(experiment: Experiment) -> FedAvg:
    """Build the configured strategy. It trains on all nodes that a grid offers, and has none evaluate."""
    parameters = {name: value for name, value in experiment.server.parameters if value is not None}
    if experiment.server.strategy == "FedProx":
        parameters.setdefault("proximal_mu", 0.0)
    if experiment.server.strategy == "QFedAvg":
        parameters.setdefault("client_learning_rate", experiment.training.learning_rate)
        parameters["train_loss_key"] = protocol.LOSS
    kind: type[FedAvg] = getattr(flower, experiment.server.strategy)
    if kind.__name__ in _OF_FEDAVG:
        kind = in_blocks(kind)
    return kind(
        # A cohort is drawn before the strategy sees it, and a Poisson one may be empty. Evaluation is central.
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=0,
        min_available_nodes=0,
        weighted_by_key=protocol.WEIGHT,
        arrayrecord_key=protocol.ARRAYS,
        configrecord_key=protocol.CONFIG,
        **parameters,
    )


def remembered(strategy: FedAvg) -> Arrays:
    """Return what the strategy remembers, as named arrays."""
    arrays: Arrays = {}
    for name in _MEMORY:
        memory = getattr(strategy, name, None) or {}
        items = memory.items() if isinstance(memory, dict) else enumerate(memory)
        arrays.update({f"{name}/{key}": np.asarray(value) for key, value in items})
    return arrays


def remind(strategy: FedAvg, arrays: Arrays) -> None:
    """Put a strategy where one was that remembered these arrays, whatever it remembers now."""
    for name in filter(lambda name: hasattr(strategy, name), _MEMORY):
        memory = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
        is_list = name == "momentum_vector"
        setattr(strategy, name, ([memory[str(i)] for i in range(len(memory))] if is_list else memory) or None)
    if hasattr(strategy, "current_arrays"):
        # FedAvgM would start from its own last result, which is not yet in the types of the model that clients get.
        strategy.current_arrays = None
