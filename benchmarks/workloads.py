"""The workloads of ``simulation.py``: one ServerApp and ClientApp that every engine runs unmodified.

The environment variable FEDTRAIN_BENCH holds the workload as JSON, since Flower's ``run_simulation`` passes no run
config.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

ROUND_TIMES = "round_times"
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
    """FedAvg that notes when each round begins."""

    def __init__(self, starts: list[float]) -> None:
        cohort = SPEC["cohort"]
        super().__init__(
            fraction_train=cohort / SPEC["nodes"],
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=SPEC["nodes"],
        )
        self._starts = starts

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Note the time, then do as FedAvg."""
        self._starts.append(time.time())
        return list(super().configure_train(server_round, arrays, config, grid))


@server.main()
def main(grid: Grid, _: Context) -> None:
    """Run the rounds and leave the times in the file that the workload names."""
    starts: list[float] = []
    config = ConfigRecord({"learning-rate": 0.1, "noise-multiplier": 1.0, "run-digest": "benchmark"})
    result = TimedFedAvg(starts).start(grid, initial_model(), num_rounds=SPEC["rounds"], train_config=config)
    assert result.arrays is not None
    Path(SPEC["times"]).write_text(json.dumps([*starts, time.time()]), encoding="utf-8")


def initial_model() -> ArrayRecord:
    """Return 1M parameters in one array (W0), or the tutorial CNN (W1, W2)."""
    if SPEC["config"] is None:
        return ArrayRecord({"weights": Array(np.zeros(1_000_000, dtype=np.float32))})
    from fedtrain.clientapp.site import open_site  # noqa: PLC0415

    return ArrayRecord(open_site(SPEC["config"]).model.state_dict())
