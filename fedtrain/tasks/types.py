"""What a task is, to the code that trains and evaluates it."""

from typing import Protocol

import torch
from torch import Tensor, nn


class Metrics(Protocol):
    """Accumulates measurements over batches of held-out records."""

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: the model's outputs and the labels, int64 of shape (n,), on any device."""

    def compute(self) -> dict[str, object]:
        """Return the measurements so far: numbers, lists and mappings that JSON can hold."""


class Task(Protocol):
    """A model with its encoding, its loss and its metrics.

    For record privacy to hold, every one of them must treat each record on its own: no statistics of a data set, no
    batch normalisation, no loss that compares records.
    """

    def model(self) -> nn.Module:
        """Build a model with fresh weights, drawn from torch's global generator, which the caller seeds.

        Two calls give the same parameter names, shapes and dtypes, in the same order.
        """

    def encode(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """Turn stored records, shape (n, *info.shape), into the model's input, float32 on the same device.

        With a generator the records are for training and may be augmented, with randomness from it alone; without one
        they never are. n may be 0.
        """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the records of a loss that treats each record on its own, a scalar.

        Must be finite for a batch without records, which Poisson sampling can draw.
        """

    def metrics(self) -> Metrics:
        """Return fresh metrics."""
