"""What is trained: a model with its encoding, losses and metrics."""

from fedtrain.tasks.build import build_task, checked_task
from fedtrain.tasks.metrics import ClassificationMetrics, MultilabelMetrics, RegressionMetrics
from fedtrain.tasks.norms import refuse_batch_statistics
from fedtrain.tasks.shared import shared_names, trainable_names
from fedtrain.tasks.types import Batch, Metric, Metrics, Records, Task

__all__ = [
    "Batch",
    "ClassificationMetrics",
    "Metric",
    "Metrics",
    "MultilabelMetrics",
    "Records",
    "RegressionMetrics",
    "Task",
    "build_task",
    "checked_task",
    "refuse_batch_statistics",
    "shared_names",
    "trainable_names",
]
