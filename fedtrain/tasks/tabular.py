"""Classification of the rows of a table."""

import torch
from torch import Tensor

from fedtrain.config.sections import TaskConfig
from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks.classification import Classification


class Tabular(Classification):
    """Puts rows of numbers into classes. ``task.model``: ``mlp`` (the default) or ``linear``."""

    kind = "table"

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        super().__init__(config, info)
        if config.augment:
            raise TaskError(
                'task.augment = true is for images, and task.name = "tabular" has no augmentation; unset it.'
            )

    def encode(self, features: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002 -- of the protocol
        """Return the features, float32 of shape (n, features), as they are.

        They are not standardised, because means and deviations are statistics of private records. Bring columns to
        similar ranges with constants that are public before training.
        """
        return features
