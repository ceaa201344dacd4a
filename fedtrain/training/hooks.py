"""Opacus' way to gradients of single records: hooks, watched.

The hooks assume that the first dimension of what every layer takes is the record. Where that is so, and only there,
they give the gradients of `fedtrain.training.gradients`; `fedtrain.training.preflight` tries whether it is.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, Task
from fedtrain.tasks.calls import forward, losses, rows
from fedtrain.training.gradients import NotRecordsError, not_records, trainable
from fedtrain.training.perrecord import PerRecord


class Hooked:
    """A model with the hooks on it.

    Attributes:
        outputs: of the last call of the model.
        own: autograd's own gradients of the sum of the losses, where they were asked for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = trainable(model)
        self._rows = 0
        self.outputs: Tensor | None = None
        self.own: list[Tensor | None] = []

    def __call__(self, task: Task, batch: Batch, *, own: bool = False) -> tuple[Tensor, PerRecord]:
        """Return the losses (n,) and the gradients of a batch of n rows.

        Args:
            task: what to train.
            batch: the rows.
            own: also keep autograd's own gradients, which these hooks compute anyway.

        Raises:
            TaskError: a layer was called with other rows than those of the batch, or a parameter has not one gradient
                for each. It says nothing of the batch, whose size is private.
        """
        for parameter in self._parameters:
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
        self._rows = rows(batch)
        self.outputs = forward(task, self._model, batch)
        found = losses(task, self.outputs, batch)
        # The sum: what a mean is divided by is rounded, and would leave the number of records in each gradient.
        torch.autograd.backward(found.sum())
        for name, parameter in self._model.named_parameters():
            gradient = getattr(parameter, "grad_sample", None)
            if parameter.requires_grad and not (isinstance(gradient, Tensor) and len(gradient) == self._rows):
                raise NotRecordsError(
                    f"its parameter {name} has not one gradient for each record, as where gradient checkpointing "
                    "computes its layer again"
                )
        gradients = [parameter.grad_sample for parameter in self._parameters]  # type: ignore[attr-defined]
        if own:
            self.own = [None if each.grad is None else each.grad for each in self._parameters]
        return found.detach(), PerRecord.of(self._parameters, gradients)

    def watch(self, name: str, layer: nn.Module, taken: tuple[Any, ...], made: Any) -> None:
        """Compare what a layer takes and returns with the rows of the batch."""
        tensors = [
            value for value in (*taken, *(made if isinstance(made, tuple) else (made,))) if torch.is_tensor(value)
        ]
        if any(value.ndim == 0 or len(value) != self._rows for value in tensors):
            kind = type(layer).__name__
            raise NotRecordsError(not_records(f"{name or 'itself'} ({kind})", tensors))


@contextmanager
def hooked(model: nn.Module) -> Iterator[Hooked]:
    """Put Opacus' hooks on the model, and leave it as a plain module again, also after a failure.

    What Opacus leaves behind are records (the inputs of layers) and the sum without noise.

    Raises:
        Exception: Opacus does not support a layer.
    """
    from opacus import GradSampleModule  # noqa: PLC0415 - Opacus takes seconds to import
    from opacus.validators import ModuleValidator  # noqa: PLC0415 - as above

    if problems := ModuleValidator.validate(model, strict=False):
        raise TaskError("; ".join(str(problem) for problem in problems))
    with warnings.catch_warnings():
        # The first layer's input needs no gradient; Opacus' hooks are made for that.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        wrapped, watching = GradSampleModule(model, loss_reduction="sum"), Hooked(model)
        watches = [
            layer.register_forward_hook(lambda layer, taken, made, name=name: watching.watch(name, layer, taken, made))
            for name, layer in model.named_modules()
            if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        ]
        try:
            yield watching
        finally:
            watching.outputs, watching.own = None, []
            for watch in watches:
                watch.remove()
            wrapped.to_standard_module()
            leave_plain(model)


def leave_plain(model: nn.Module) -> None:
    """Take away what trainers and Opacus keep on parameters and layers."""
    for owner in (*model.parameters(), *model.modules()):
        for left in ("grad_sample", "summed_grad", "activations", "max_batch_len", "_forward_counter"):
            vars(owner).pop(left, None)
    for parameter in model.parameters():
        parameter.grad = None
