"""What a task is, to the code that trains and evaluates it."""

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks.public import PublicWeights
from fedtrain.tasks.weights import names_of

Batch = dict[str, Tensor]
"""What a model is trained on at once, by name. The first dimension of every tensor is the record."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Records of one client, or of the test data, as stored.

    Attributes:
        features: shape (n, *record), dtype uint8 for images and float32 for tables.
        targets: n rows: int64 class numbers (n,), float32 numbers (n,), uint8 labels (n, labels), or
            uint8 (n, 0) where the text itself is the target.
    """

    features: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.targets)

    def take(self, rows: Tensor | slice) -> "Records":
        """Return the records of some rows, in their order."""
        return Records(features=self.features[rows], targets=self.targets[rows])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How to read one of the numbers that `Metrics.compute` returns.

    Attributes:
        name: its key there.
        direction: whether a higher or a lower value is better.
        format: how people read it: as a percentage of a fraction, or as a number.
    """

    name: str
    direction: Literal["higher", "lower"]
    format: Literal["percent", "number"]


class Metrics(Protocol):
    """Accumulates measurements over batches of held-out records."""

    @property
    def described(self) -> tuple[Metric, ...]:
        """The measurements that are single numbers. The best model is chosen by the first."""

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch: the model's outputs, and what they were computed from, on any device."""

    def compute(self) -> dict[str, object]:
        """Return the measurements so far: numbers, lists and mappings that JSON can hold."""


class Task(Protocol):
    """A model with its encoding, its losses and its metrics.

    For record privacy to hold, every one of them must treat each record on its own: no statistics of a data set, no
    batch normalisation, no loss that compares records. The trainers call it with one record or more; a batch without
    records, which Poisson sampling can draw, is their matter.

    A class of one's own may inherit from this one, and then has ``forward``, ``shared`` and ``public_weights`` as they
    are here.
    """

    @abstractmethod
    def model(self) -> nn.Module:
        """Build a model with fresh weights, drawn from torch's global generator, which the caller seeds.

        Two calls give the same parameter names, shapes and dtypes, in the same order.
        """

    @abstractmethod
    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:
        """Turn n stored records into a batch, each tensor with n rows, on the records' device.

        With a generator the records are for training and may be augmented, with randomness from it alone; without one
        they never are.
        """

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's outputs, a row for each record."""
        outputs: Tensor = model(batch["inputs"])
        return outputs

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each record, shape (n,), each from its own row alone. The trainer takes the mean."""

    @abstractmethod
    def metrics(self) -> Metrics:
        """Return fresh metrics."""

    def shared(self, model: nn.Module) -> frozenset[str]:
        """Return the names in the state dict that are sent, clipped, masked and digested; all else stays as received.

        They are some or all of the trainable parameters (`trainable_names`). A parameter that has several names, as
        tied weights have, is one: any of its names means it.
        """
        return trainable_names(model)

    def public_weights(self, model: nn.Module) -> PublicWeights | None:
        """Return what is declared of the frozen weights, where every machine has them from a public source.

        They then never travel, and are not in the saved model. ``None``: all weights are sent to the clients.
        """
        del model
        return None


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict of all that is trained, each parameter by the first of its names.

    In a private mode all else, buffers and frozen parameters, is released as it was received: no noise covers it.
    """
    names = names_of(model)
    parameters = model.named_parameters(remove_duplicate=False)
    return frozenset(names[name] for name, value in parameters if value.requires_grad and name in names)


def unknown(field: str, value: str, allowed: Collection[str], also: str = "") -> TaskError:
    """Return the error for a value that is none of the allowed names.

    Args:
        field: the configuration field that holds the value.
        value: the value.
        allowed: the names that the field may hold.
        also: what else the field may hold, in words.
    """
    close = get_close_matches(value, allowed, n=1, cutoff=0.4)
    hint = f'; did you mean "{close[0]}"?' if close else "."
    names = ", ".join(f'"{name}"' for name in allowed)
    return TaskError(f'{field} = "{value}" is not known{hint} Allowed: {names}{also}.')
