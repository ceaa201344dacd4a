"""The gradients of single records.

The definition: the gradient of a record is that of the loss of the record alone, in a batch of one. Whatever a task and
its model do with a batch, with these gradients a record is in no gradient but its own. They are the oracle that faster
ways are compared with, and what is trained with where a faster way is not proven.

A row is one view of one record, and the views of a record are next to each other.

Example::

    ones = collate_alone(task, records, None)
    losses, gradients = by_loop(task, model, ones)
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, Records, Task
from fedtrain.tasks.calls import collate, forward, losses, split


@contextmanager
def whole_precision() -> Iterator[None]:
    """Compute products of single precision in single precision, whatever the program has asked torch for.

    torch may shorten the factors to 11 bits (TF32, which is its default for convolutions on GPUs) or to 8 (bfloat16).
    Then a norm, and the sum that it is to bound, are no longer of the same numbers to single precision.
    """
    backends: Any = torch.backends  # whose parts torch does not declare
    kinds = (
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    )
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def collate_views(task: Task, records: Records, generator: torch.Generator | None, views: int) -> Batch:
    """Return a batch with each record ``views`` times, each time augmented anew: n * views rows, records outermost."""
    if views == 1:
        return collate(task, records, generator)
    drawn = [collate(task, records, generator) for _ in range(views)]
    return {name: torch.stack([batch[name] for batch in drawn], dim=1).flatten(0, 1) for name in drawn[0]}


def rows_of(gradient: Tensor) -> Tensor:
    """Return the gradients of a parameter as a matrix with a row for each row of the batch, which may be empty."""
    return gradient.reshape(len(gradient), gradient.shape[1:].numel())


class NotRecordsError(TaskError):
    """A layer was called with other rows than records, or has other gradients than one for each record.

    Attributes:
        what: which layer or parameter it is.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the model cannot be trained privately: {what}. The synthetic records of the preflight did not show it: "
            "look for branches that depend on values, and for layers that take some of the records only"
        )
        self.what = what


def not_records(layer: str, tensors: Sequence[Tensor]) -> str:
    """Return what is wrong with a layer that is called with other rows than records.

    Args:
        layer: its name and kind.
        tensors: what it took. One row for all records is what models of language look positions up with.
    """
    text = f"its layer {layer} is called with rows that are not the records"
    if any(value.ndim and len(value) == 1 for value in tensors):
        text += ", but one for all of them: expand position ids and the like to a row for each record"
    return text


Gradients = list[Tensor]
"""A tensor for each trainable parameter, in the model's order, of shape (rows, *parameter)."""


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, each once, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def collate_alone(task: Task, records: Records, generator: torch.Generator | None, *, views: int = 1) -> list[Batch]:
    """Return batches of one row: each record goes through ``collate`` alone, once for each of its views."""
    return [
        one
        for row in range(len(records))
        for one in split(collate_views(task, records.take(slice(row, row + 1)), generator, views), 1)
    ]


def by_loop(task: Task, model: nn.Module, ones: Sequence[Batch]) -> tuple[Tensor, Gradients]:
    """Return losses (n,) and gradients of n batches of one row, one after another.

    A parameter that a loss does not depend on has a gradient of zeros.

    Raises:
        TaskError: a loss depends on no parameter.
    """
    parameters, found, lines = trainable(model), [], []
    for one in ones:
        loss = losses(task, forward(task, model, one), one).sum()
        if not loss.requires_grad:
            raise TaskError(
                "the losses do not depend on the model's weights: is the model's output detached, or computed "
                "without gradients?"
            )
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        lines.append(
            [
                torch.zeros_like(parameter) if gradient is None else gradient.to_dense()
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]
        )
        found.append(loss.detach())
    return torch.stack(found), [torch.stack(line) for line in zip(*lines, strict=True)]


def by_vmap(task: Task, model: nn.Module, ones: Sequence[Batch]) -> tuple[Tensor, Gradients]:
    """Return what `by_loop` returns, computed for all records at once where that is possible.

    ``torch.func.vmap`` of the loss of a single record: every operation is computed for each record as if it were alone,
    and an operation that cannot be raises. Rows of different shapes are a loop.

    Raises:
        Exception: an operation cannot be mapped, such as a branch that depends on a value.
    """
    batch = joined(ones)
    if batch is None:
        return by_loop(task, model, ones)
    pipeline = Pipeline(task, model)
    names = [name for name, parameter in pipeline.named_parameters() if parameter.requires_grad]
    weights = {name: parameter.detach() for name, parameter in pipeline.named_parameters() if parameter.requires_grad}

    def loss_of(weights: dict[str, Tensor], record: Batch) -> Tensor:
        return pipeline.with_weights(weights, {name: value.unsqueeze(0) for name, value in record.items()}).sum()

    with warnings.catch_warnings():
        # Operations without a rule of their own are slower, and right.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        mapped = vmap(grad_and_value(loss_of), in_dims=(None, 0), randomness="different")
        gradients, found = mapped(weights, batch)
    return found.detach(), [gradients[name].detach() for name in names]


def _places(model: nn.Module) -> dict[str, str]:
    """Return where trainable parameters are, each place of a module once, and the name of the parameter there."""
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        f"{owner}.{attribute}" if owner else attribute: names[parameter]
        for owner, module in model.named_modules()
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if parameter in names
    }


class Pipeline(nn.Module):
    """From a batch to its losses, as one module, so that weights can be replaced in all of it."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task
        self._placed = _places(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return the losses of a batch, shape (n,)."""
        return losses(self._task, forward(self._task, self.model, batch), batch)

    def with_weights(self, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the losses of a batch with other trainable parameters, by their names in the pipeline."""
        # torch ties weights by all their names, and does not put back what a layer of two names had.
        placed = {place: weights[name] for place, name in self._placed.items()}
        found: Tensor = functional_call(self, placed, (batch,), tie_weights=False)
        return found


def joined(ones: Sequence[Batch]) -> Batch | None:
    """Return batches of one row as one batch; ``None`` where their shapes differ, as by padding to the longest."""
    shapes = {tuple((name, value.shape) for name, value in one.items()) for one in ones}
    return {name: torch.cat([one[name] for one in ones]) for name in ones[0]} if len(shapes) == 1 else None
