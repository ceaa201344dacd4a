"""The floor: W1 in plain PyTorch over two processes, without any framework."""

import json
import os
import random
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord
from proof import require, require_loss
from torch import multiprocessing, nn

from fedtrain.clientapp.site import Site, open_site

SPEC = json.loads(os.environ["FEDTRAIN_BENCH"])
_site: Site


def _prepare() -> None:
    global _site  # noqa: PLW0603 - what a worker of a pool keeps
    torch.set_num_threads(1)
    _site = open_site(SPEC["config"])


def _train(task: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    client, weights = task
    model = _site.model
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = _site.records(client)
    images = records.features.float().div_(127.5).sub_(1.0)
    for batch in torch.randperm(len(records)).split(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), records.targets[batch]).backward()
        optimizer.step()
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def main() -> None:
    """Run the rounds and leave the times in the file that the workload names."""
    weights = {name: value.numpy().copy() for name, value in open_site(SPEC["config"]).model.state_dict().items()}
    before, starts, counts = dict(weights), [], []
    with multiprocessing.get_context("spawn").Pool(2, initializer=_prepare) as pool:
        for _ in range(SPEC["rounds"]):
            starts.append(time.time())
            cohort = random.sample(range(SPEC["nodes"]), SPEC["cohort"])
            results = pool.map(_train, [(client, weights) for client in cohort], chunksize=1)
            counts.append(len(results))
            weights = {name: sum(result[name] for result in results) / len(results) for name in weights}
        starts.append(time.time())
    require(all((weights[name] != before[name]).any() for name in weights), "the weights are those of the beginning")
    loss_of = import_module("workloads").loss_of
    require_loss(loss_of(_record(before)), loss_of(_record(weights)), falls=SPEC["falls"])
    Path(SPEC["times"]).write_text(json.dumps({"marks": starts, "results": counts}), encoding="utf-8")


def _record(weights: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


if __name__ == "__main__":
    main()
