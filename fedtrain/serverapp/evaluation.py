"""Central evaluation on the test records, which no client sees."""

import json

import torch
from torch import nn

from fedtrain.data import Split
from fedtrain.errors import RunError, TaskError
from fedtrain.report import Evaluation, Metric
from fedtrain.tasks import Records, Task
from fedtrain.tasks.calls import collate, forward, to_device

_BATCH = 500


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return how to read what the task measures, as a report holds it; the first chooses the best model.

    Raises:
        TaskError: the task's metrics do not say so.
    """
    metrics = task.metrics()
    if not hasattr(metrics, "described"):
        raise TaskError(
            f"the metrics of the task, of type {type(metrics).__name__}, have no `described`: a tuple of "
            "fedtrain.tasks.Metric, the first of which chooses the best model; an empty one chooses none"
        )
    return tuple(
        Metric(name=metric.name, direction=metric.direction, format=metric.format) for metric in metrics.described
    )


def evaluate(model: nn.Module, task: Task, test: Split, *, round_number: int) -> Evaluation:
    """Measure the model on all test records.

    Raises:
        RunError: what the task measures is not what a report can hold.
    """
    device = next(model.parameters()).device
    metrics = task.metrics()
    model.eval()
    with torch.no_grad():
        for start in range(0, len(test), _BATCH):
            records = Records(
                features=torch.from_numpy(test.features[start : start + _BATCH].copy()),
                targets=torch.from_numpy(test.targets[start : start + _BATCH].copy()),
            )
            batch = to_device(collate(task, records, None), device)
            metrics.update(forward(task, model, batch), batch)
    try:
        return Evaluation.model_validate_json(json.dumps({"round": round_number, **metrics.compute()}))
    except (TypeError, ValueError) as error:
        raise RunError(f"the task's measurements after round {round_number} cannot be reported: {error}") from error
