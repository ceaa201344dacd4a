"""Central evaluation on the test records, which no client sees."""

import json

import torch
from torch import nn

from fedtrain.data import Split
from fedtrain.report import Evaluation
from fedtrain.tasks import Task

_BATCH = 500


def evaluate(model: nn.Module, task: Task, test: Split, *, round_number: int) -> Evaluation:
    """Measure the model on all test records."""
    device = next(model.parameters()).device
    metrics = task.metrics()
    model.eval()
    with torch.no_grad():
        for start in range(0, len(test), _BATCH):
            features = torch.from_numpy(test.features[start : start + _BATCH].copy())
            labels = torch.from_numpy(test.labels[start : start + _BATCH].copy())
            outputs = model(task.encode(features, None).to(device))
            metrics.update(outputs, labels.to(device))
    return Evaluation.model_validate_json(json.dumps({"round": round_number, **metrics.compute()}))
