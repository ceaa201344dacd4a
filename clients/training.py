"""One round of training at one client."""

from copy import deepcopy
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY
from torch import nn

from clients.site import Site, checked_plan
from fedtrain.errors import ClientError
from fedtrain.flower import protocol
from fedtrain.flower.accounts import load_account, store_account
from fedtrain.privacy import Charge
from fedtrain.privacy.noise import open_source
from fedtrain.seeding import derive_seed
from fedtrain.training import RoundSettings, train_plain


def client_number(context: Context, clients: int) -> int:
    """Return which client of the simulated federation this node is.

    Raises:
        ClientError: the node is not one of a simulation of so many clients.
    """
    number, nodes = context.node_config.get(PARTITION_ID_KEY), context.node_config.get(NUM_PARTITIONS_KEY)
    if number is None or nodes is None:
        raise ClientError(
            f"this node is not part of a simulation: its node config has no {PARTITION_ID_KEY}; noise from a seed that "
            "the server knows protects nobody outside of a simulation"
        )
    if nodes != clients:
        raise ClientError(f"the simulation has {nodes} nodes and federation.clients = {clients}; make them equal")
    return int(number)


def train(content: RecordDict, context: Context, site: Site) -> RecordDict:
    """Train the received model on this client's records and return the reply's content.

    In record privacy the reply holds the noisy weights and public constants, nothing else.
    """
    experiment = site.experiment
    client = client_number(context, experiment.federation.clients)
    received = cast("ArrayRecord", content[protocol.ARRAYS])
    config = cast("ConfigRecord", content[protocol.CONFIG])
    round_number = cast("int", config[protocol.ROUND])
    # A process trains one client after another: what a layer keeps, or a failure leaves, must not reach the next.
    model = deepcopy(site.model)
    model.load_state_dict(received.to_torch_state_dict())
    settings = RoundSettings(
        learning_rate=cast("float", config[protocol.LEARNING_RATE]),
        proximal_mu=cast("float", config.get(protocol.PROXIMAL_MU, 0.0)),
        seed=derive_seed(experiment.seed, "client", client, round_number),
    )
    # A layer such as dropout draws from torch's global generator.
    torch.manual_seed(derive_seed(settings.seed, "layers"))
    metrics = MetricRecord({protocol.WEIGHT: 1.0})
    if experiment.privacy.mode == "record":
        _train_private(site, model, client, received, config, settings, context)
    else:
        records = site.records(client)
        loss = train_plain(model, site.task, records, experiment.training, settings)
        metrics = MetricRecord({protocol.WEIGHT: float(len(records)), protocol.LOSS: loss})
    arrays = ArrayRecord(model.state_dict())
    if experiment.privacy.mode == "record":
        # What a layer writes into a buffer is neither clipped nor noised: the buffers stay as they were received.
        trained = {name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
        arrays = ArrayRecord({name: array if name in trained else received[name] for name, array in arrays.items()})
    return RecordDict({protocol.ARRAYS: arrays, "metrics": metrics})


def _train_private(
    site: Site,
    model: nn.Module,
    client: int,
    received: ArrayRecord,
    config: ConfigRecord,
    settings: RoundSettings,
    context: Context,
) -> None:
    from fedtrain.training.private import (  # noqa: PLC0415 - Opacus takes seconds to import
        refuse_untrainable,
        train_private,
    )

    refuse_untrainable(model)
    plan = checked_plan(site.experiment, cast("float", config[protocol.NOISE_MULTIPLIER]))
    charge = Charge(
        run=cast("str", config[protocol.RUN]),
        round_number=cast("int", config[protocol.ROUND]),
        model=protocol.request_digest(received, config),
        event=plan.round_event,
    )
    # The charge is in the state before a record is read.
    store_account(context.state, load_account(context.state).reserve(charge, plan.spec))
    source = open_source("seeded", settings.seed)
    train_private(model, site.task, site.records(client), site.experiment.training, settings, plan, source)
