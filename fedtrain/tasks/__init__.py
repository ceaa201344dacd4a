"""What is trained: a model with its encoding, losses and metrics."""

from fedtrain.tasks.base import Batch, Metric, Metrics, Records, Task, trainable_names
from fedtrain.tasks.build import NO_OBJECTS, CallerObjects, build_task, checked_task, factory_of
from fedtrain.tasks.calls import refuse_batch_statistics, shared_names
from fedtrain.tasks.metrics import ClassificationMetrics, MultilabelMetrics, RegressionMetrics
from fedtrain.tasks.public import HeldWeights, PublicWeights, digest_of_frozen, held_by, refuse_changed
from fedtrain.tasks.weights import build_model, load_weights, move_model, names_of, weights_of

__all__ = [
    "NO_OBJECTS",
    "Batch",
    "CallerObjects",
    "ClassificationMetrics",
    "HeldWeights",
    "Metric",
    "Metrics",
    "MultilabelMetrics",
    "PublicWeights",
    "Records",
    "RegressionMetrics",
    "Task",
    "build_model",
    "build_task",
    "checked_task",
    "digest_of_frozen",
    "factory_of",
    "held_by",
    "load_weights",
    "move_model",
    "names_of",
    "refuse_batch_statistics",
    "refuse_changed",
    "shared_names",
    "trainable_names",
    "weights_of",
]
