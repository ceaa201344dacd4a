"""What a task is, to the code that trains and evaluates it."""

from typing import Protocol

import torch
from torch import Tensor, nn


class Metrics(Protocol):
    """Accumulates measurements over batches of held-out records."""

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: the model's outputs and the labels, int64 of shape (n,)."""

    def compute(self) -> dict[str, object]:
        """Return the measurements so far: numbers, lists and mappings that JSON can hold."""


class Task(Protocol):
    """A model with its encoding, its loss and its metrics."""

    def model(self) -> nn.Module:
        """Build a model with fresh weights, drawn from torch's global generator."""

    def encode(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """Turn stored records, shape (n, *info.shape), into the model's input, float32.

        With a generator the records are for training and may be augmented; without one they never are.
        """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the records of a loss that treats each record on its own, a scalar."""

    def metrics(self) -> Metrics:
        """Return fresh metrics."""
