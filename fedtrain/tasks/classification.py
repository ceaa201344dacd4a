"""What the built-in tasks share: they put a record into one of the classes of the data set."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from fedtrain.config.sections import TaskConfig
from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks import models
from fedtrain.tasks.metrics import ClassificationMetrics


class Classification:
    """Model, loss and metrics of a classifier; a subclass adds the encoding.

    Raises:
        TaskError: the data set is of another kind, has fewer than two classes, or does not fit the model.
    """

    kind: Literal["image", "table"]

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        if info.kind != self.kind:
            other = {"image": "vision", "table": "tabular"}[info.kind]
            raise TaskError(
                f'task.name = "{config.name}" takes data of kind "{self.kind}", and this data set is of kind '
                f'"{info.kind}"; set task.name = "{other}", or use another data set.'
            )
        if len(info.classes) < 2:  # noqa: PLR2004 -- fewer cannot be told apart
            raise TaskError(
                f'task.name = "{config.name}" needs at least 2 classes, and the data set has {len(info.classes)}; '
                "check data.label_column."
            )
        self._info = info
        self._architecture = models.find(models.choose(info) if config.model is None else config.model, info)

    def model(self) -> nn.Module:
        """Build a model with fresh weights, drawn from torch's global generator. It maps records to logits."""
        return self._architecture.build(self._info.shape, len(self._info.classes))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy in nats of logits (n, classes) and labels (n,), a scalar.

        The loss of an empty batch is zero with zero gradients: Poisson sampling can draw one, and the mean over no
        records would be NaN.
        """
        if len(labels) == 0:
            return outputs.sum()
        return functional.cross_entropy(outputs, labels)

    def metrics(self) -> ClassificationMetrics:
        """Return fresh metrics."""
        return ClassificationMetrics(len(self._info.classes))
