"""A task of so many classes that what is measured of each has a place of its own."""

from torch import nn
from torch.nn import functional

from fedtrain.tasks import ClassificationMetrics, Task


class ManyClasses(Task):
    """The digits, as if there were 300 classes."""

    def __init__(self, info):
        self.info = info

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 300))

    def collate(self, records, generator):
        del generator
        return {"inputs": records.features.float() / 16, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(300)
