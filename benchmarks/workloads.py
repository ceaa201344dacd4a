"""The workloads of ``simulation.py``: one ServerApp and ClientApp that every engine runs unmodified.

The environment variable FEDTRAIN_BENCH holds the workload as JSON, since Flower's ``run_simulation`` passes no run
config.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from proof import require_loss, require_replies

SPEC = json.loads(os.environ["FEDTRAIN_BENCH"])

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Return the model as it came (W0), or train on it with the code of the product (W1, W2)."""
    if SPEC["config"] is None:
        return Message(
            RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1.0})}),
            reply_to=message,
        )
    from fedtrain.clientapp import training  # noqa: PLC0415 - W0 does without torch
    from fedtrain.clientapp.context import context_of  # noqa: PLC0415
    from fedtrain.clientapp.site import open_site  # noqa: PLC0415

    client = context_of(replace(context, run_config=SPEC["config"]))
    return Message(training.train(message.content, client, open_site(SPEC["config"])), reply_to=message)


class TimedFedAvg(FedAvg):
    """FedAvg that notes when each round begins, and how many clients did its work."""

    def __init__(self) -> None:
        cohort = SPEC["cohort"]
        super().__init__(
            fraction_train=cohort / SPEC["nodes"],
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=SPEC["nodes"],
        )
        self.starts: list[float] = []
        self.results: list[int] = []
        self._sent = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Note the time, then do as FedAvg. In a private workload each client is asked for all of its ledger."""
        self.starts.append(time.time())
        self._sent = arrays
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages if SPEC["private"] else ():
            message.content = RecordDict({**message.content, "ledger": ConfigRecord({"known": 0})})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Require that each client did its work, then do as FedAvg, which passes over errors."""
        replies = list(replies)
        require_replies(replies, self._sent, cohort=SPEC["cohort"], trains=SPEC["config"] is not None)
        self.results.append(len(replies))
        return super().aggregate_train(server_round, replies)


@server.main()
def main(grid: Grid, _: Context) -> None:
    """Run the rounds and leave the times in the file that the workload names."""
    strategy, before = TimedFedAvg(), initial_model()
    result = strategy.start(grid, before, num_rounds=SPEC["rounds"], train_config=ConfigRecord(settings()))
    marks = [*strategy.starts, time.time()]
    require_loss(loss_of(before), loss_of(result.arrays), falls=SPEC["falls"])
    Path(SPEC["times"]).write_text(json.dumps({"marks": marks, "results": strategy.results}), encoding="utf-8")


def settings() -> dict[str, float | str]:
    """Return what a round says to all clients, as `fedtrain.flower.messages.training.train_settings` has it."""
    private = {"run": "benchmark", "noise-multiplier": 1.0, "clip-norm": 1.0} if SPEC["private"] else {}
    return {"learning-rate": 0.1, **private}


def loss_of(arrays: ArrayRecord) -> float:
    """Return the loss of a model on the test records; of a model that is not trained (W0) its mean weight."""
    if SPEC["config"] is None:
        return float(arrays["weights"].numpy().mean())
    from fedtrain.clientapp.site import open_site  # noqa: PLC0415
    from fedtrain.config import from_flat  # noqa: PLC0415
    from fedtrain.data import open_simulated  # noqa: PLC0415
    from fedtrain.serverapp.evaluation import evaluate  # noqa: PLC0415

    experiment, site = from_flat(SPEC["config"]), open_site(SPEC["config"])
    store, _ = open_simulated(experiment.data, clients=experiment.federation.clients, seed=experiment.seed)
    site.model.load_state_dict(arrays.to_torch_state_dict())
    loss = evaluate(site.model, site.task, store.test, round_number=0).loss
    return nan if loss is None else loss


def initial_model() -> ArrayRecord:
    """Return 1M parameters in one array (W0), or the tutorial CNN (W1, W2)."""
    if SPEC["config"] is None:
        return ArrayRecord({"weights": Array(np.zeros(1_000_000, dtype=np.float32))})
    from fedtrain.clientapp.site import open_site  # noqa: PLC0415

    return ArrayRecord(open_site(SPEC["config"]).model.state_dict())
