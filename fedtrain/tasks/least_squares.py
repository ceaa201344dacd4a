"""A linear layer on the inputs of another task, by least squares: two sums over the records, and no rounds.

What a record adds and how the fit is made of the sums: `fedtrain.statistics`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtrain.config import Experiment
from fedtrain.data.types import DataInfo
from fedtrain.errors import ConfigError, TaskError
from fedtrain.statistics import ClassCode, LabelsCode, MomentLayout, NumberCode, TargetCode, fit
from fedtrain.tasks.base import Batch, Metrics, Records, Task
from fedtrain.tasks.sums import SumTask
from fedtrain.tasks.supervised import Supervised

SUMS = "weight"
"""The name of the sums in the model that clients get and send."""


def with_solver(task: Task, experiment: Experiment, info: DataInfo) -> Task:
    """Return the task as the solver of an experiment trains it: the task itself, or its least squares.

    Args:
        task: the task of the experiment.
        experiment: the experiment.
        info: the schema of the records, as the task gets them.

    Raises:
        TaskError: least squares does not fit this task.
        ConfigError: the target is an unbounded statistic.
    """
    if experiment.training.solver != "least-squares":
        return task
    if not isinstance(task, Supervised):
        raise TaskError(
            f'training.solver = "least-squares" fits what a built-in task predicts, and task.name = '
            f'"{experiment.task.name}" is one of your own; use a built-in task with task.encoder, or another solver'
        )
    if task.inputs.kind == "tokens" and info.target.kind != "text":
        raise TaskError(
            'training.solver = "least-squares" fits numbers, and the numbers of tokens are names of words; set '
            'task.encoder = "minilm", or unset the solver'
        )
    return LeastSquares(task, experiment, info)


class LeastSquares(SumTask):
    """The least squares of a built-in task.

    Attributes:
        layout: what a record adds.
        code: how targets are numbers.
    """

    def __init__(self, task: Supervised, experiment: Experiment, info: DataInfo) -> None:
        self._task = task
        self._experiment = experiment
        inputs = math.prod(task.inputs.shape)
        self.code = _code_of(experiment, info)
        self.layout = MomentLayout(
            inputs=inputs,
            targets=self.code.columns,
            radius=experiment.training.feature_norm or math.sqrt(inputs),
        )

    @property
    def size(self) -> int:
        """The numbers of a vector."""
        return self.layout.size

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:
        """Return the batch of the task whose inputs these are."""
        return self._task.collate(records, generator)

    def vectors(self, batch: Batch) -> Tensor:
        """Return what each record adds to the moments, shape (n, size)."""
        inputs = batch["inputs"].flatten(1)
        return self.layout.vectors(self.layout.augmented(inputs), self.code.encode(batch["targets"], inputs.dtype))

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what the losses or the metrics take: products of the sums with vectors, or outputs of the fit."""
        if isinstance(model, Fitted):
            return self.code.outputs(model(batch["inputs"]))
        return super().forward(model, batch)

    def metrics(self) -> Metrics:
        """Return fresh metrics of the task, which take outputs of the fit."""
        return self._task.metrics()

    def fitted(self) -> "Fitted":
        """Return the linear layer that is fitted, with weights of zero."""
        return Fitted(self.layout.inputs, self.layout.targets)

    def solve(self, sums: Mapping[str, NDArray[Any]], *, noise: float) -> dict[str, NDArray[np.generic]]:
        """Return the weights of the linear layer that noisy sums give.

        Args:
            sums: the model that clients trained, by name.
            noise: standard deviation of the noise on the mean gradient of its step, in clipping norms.
        """
        mean = self.mean(sums[SUMS], self._experiment)
        moments = self.layout.read(mean, deviation=self.deviation(noise))
        weights, biases = self.layout.head(fit(moments))
        scale, centre = self.code.scale, self.code.centre
        return {
            "linear.weight": (weights * scale).astype(np.float32),
            "linear.bias": (biases * scale + centre).astype(np.float32),
        }


class Fitted(nn.Module):
    """A linear layer on flattened inputs: what least squares fits.

    It returns estimates of the probability of each class or label, or of the number, in its unit.
    """

    def __init__(self, inputs: int, targets: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, targets)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs of shape (n, ...) to estimates (n, targets)."""
        estimates: Tensor = self.linear(inputs.flatten(1))
        return estimates


def _code_of(experiment: Experiment, info: DataInfo) -> TargetCode:
    match info.target.kind:
        case "text":
            raise ConfigError(
                'training.solver = "least-squares" fits classes, labels or numbers, and data.target = "text" has none '
                "of them; unset training.solver"
            )
        case "class":
            return ClassCode(columns=len(info.classes))
        case "labels":
            return LabelsCode(columns=len(info.classes))
        case "number":
            lower, upper = experiment.training.target_lower, experiment.training.target_upper
            if lower is None or upper is None:
                raise ConfigError(
                    'data.target = "number" is an unbounded statistic with training.solver = "least-squares": one '
                    "record moves the sum of targets times inputs by its target, and noise that hides the record has a "
                    "standard deviation of noise multiplier * the largest target. Set training.target_lower and "
                    "training.target_upper to bounds that are public"
                )
            return NumberCode(lower=lower, upper=upper)
