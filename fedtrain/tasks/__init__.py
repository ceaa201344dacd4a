"""What is trained: a model with its encoding, loss and metrics."""

from fedtrain.tasks.build import build_task
from fedtrain.tasks.metrics import ClassificationMetrics
from fedtrain.tasks.norms import refuse_batch_statistics
from fedtrain.tasks.trainable import trainable_names
from fedtrain.tasks.types import Metrics, Task

__all__ = ["ClassificationMetrics", "Metrics", "Task", "build_task", "refuse_batch_statistics", "trainable_names"]
