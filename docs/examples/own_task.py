"""A task of one's own: images from scanners that differ in brightness and contrast."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, ClassificationMetrics, Records, Task


class Scans(Task):
    """A network with bounded activations on images that are each brought to mean 0 and deviation 1."""

    def __init__(self, info: DataInfo) -> None:
        """Keep the public facts of the data set that the model is built from."""
        if info.kind != "image":
            raise TaskError(f'own_task takes images, and this data set is of kind "{info.kind}".')
        self.shape, self.classes = info.shape, len(info.classes)

    def model(self) -> nn.Module:
        """Build the network with fresh weights."""
        channels, height, width = self.shape
        convolution = nn.Conv2d(channels, 16, kernel_size=3, padding=1)
        dense = nn.Linear(16 * (height // 2) * (width // 2), self.classes)
        return nn.Sequential(convolution, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), dense)

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:
        """Standardise each image by its own mean and deviation; vary the contrast in training."""
        images = functional.layer_norm(records.features.to(torch.float32), self.shape)
        if generator is not None:
            contrast = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device)
            images = images * contrast.to(images.device)
        return {"inputs": images, "targets": records.targets}

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of each record."""
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self) -> ClassificationMetrics:
        """Use the measurements of the built-in tasks."""
        return ClassificationMetrics(self.classes)


def build(info: DataInfo) -> Scans:
    """Return the task; `task.name = "own_task:build"` names this function."""
    return Scans(info)
