"""FedAvg over a linear model of the digits, as Flower's own examples write it: no privacy, no layer."""

import json
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from PIL import Image
from torch import nn

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train for some steps on the records of this site."""
    model = nn.Linear(64, 10)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    steps = int(context.run_config["steps"])
    if steps:
        site = Path(str(context.node_config["fedtrain-node"])).name
        table = pq.read_table(Path(str(context.run_config["data"])) / site / f"{site}.parquet").to_pydict()
        pixels = np.stack([np.asarray(Image.open(BytesIO(image["bytes"]))) for image in table["image"]])
        images = torch.from_numpy(pixels.reshape(len(pixels), -1)).float().div(127.5).sub(1)
        labels = torch.tensor(table["label"])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for batch in torch.randperm(len(labels)).repeat(10).split(60)[:steps]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when rounds begin."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=3, min_train_nodes=3)
        self.begun: list[float] = []
        self.results: list[int] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note the time."""
        self.begun.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Count those that are no errors, which FedAvg passes over."""
        replies = list(replies)
        self.results.append(sum(not reply.has_error() for reply in replies))
        return super().aggregate_train(server_round, replies)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and leave their seconds in the file that the run config names."""
    strategy, rounds = Timed(), int(context.run_config["rounds"])
    before = ArrayRecord(nn.Linear(64, 10).state_dict())
    after = strategy.start(grid, before, num_rounds=rounds).arrays
    moved = not all(np.allclose(after[name].numpy(), array.numpy(), atol=1e-5) for name, array in before.items())
    ends = [*strategy.begun[1:], time.monotonic()]
    seconds = [end - start for start, end in zip(strategy.begun, ends, strict=True)]
    found = {"seconds": seconds, "results": strategy.results, "moved": moved}
    Path(str(context.run_config["times"])).write_text(json.dumps(found), encoding="utf-8")
