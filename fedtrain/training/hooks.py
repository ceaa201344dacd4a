"""The fast way to gradients of single records: Opacus' hooks, watched.

The hooks assume that the first dimension of what every layer takes is the record. Where that is so, and only there,
they give the gradients of `fedtrain.training.gradients`; `fedtrain.training.preflight` tries whether it is.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, Task
from fedtrain.tasks.calls import forward, losses, rows
from fedtrain.training.gradients import Gradients, rows_of, trainable


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


def unsupported(model: nn.Module) -> str | None:
    """Return why Opacus has no hooks for a layer of the model, or ``None`` if it has for all."""
    problems = ModuleValidator.validate(model, strict=False)
    return "; ".join(str(problem) for problem in problems) or None


class Hooked:
    """A model with the hooks on it.

    Attributes:
        outputs: of the last call of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = trainable(model)
        self._rows = 0
        self.outputs: Tensor | None = None

    def __call__(self, task: Task, batch: Batch) -> tuple[Tensor, Gradients]:
        """Return losses (n,) and gradients of a batch of n rows, which the parameters then hold as ``grad_sample``.

        ``grad`` of each parameter is autograd's own gradient of the sum of the losses.

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
                raise NotRecordsError(f"its parameter {name} has not one gradient for each record")
        return found.detach(), [parameter.grad_sample for parameter in self._parameters]  # type: ignore[attr-defined]

    def refuse_other_sum(self, gradients: Gradients, tolerance: float) -> None:
        """Refuse gradients whose sum is not autograd's own, which the last backward pass left.

        Raises:
            TaskError: names the parameter.
        """
        for (name, parameter), gradient in zip(
            ((name, each) for name, each in self._model.named_parameters() if each.requires_grad),
            gradients,
            strict=True,
        ):
            assert parameter.grad is not None
            single = gradient.double()
            own, found = parameter.grad.double(), single.sum(0)
            scale = rows_of(single).norm(dim=1).sum()
            # A record that is not finite makes both so, and counts as zero. What is too long for autograd's own sum is
            # not compared.
            if scale < torch.finfo(parameter.dtype).max and not (found - own).norm() <= tolerance * scale:
                raise NotRecordsError(f"the gradients of single records of {name} are not, together, that of the batch")

    def watch(self, name: str, layer: nn.Module, taken: tuple[Any, ...], made: Any) -> None:
        """Compare what a layer takes and returns with the rows of the batch."""
        tensors = [
            value for value in (*taken, *(made if isinstance(made, tuple) else (made,))) if torch.is_tensor(value)
        ]
        if any(value.ndim == 0 or len(value) != self._rows for value in tensors):
            kind = type(layer).__name__
            raise NotRecordsError(f"its layer {name or 'itself'} ({kind}) is called with rows that are not the records")


@contextmanager
def hooked(model: nn.Module) -> Iterator[Hooked]:
    """Put Opacus' hooks on the model, and leave it as a plain module again, also after a failure.

    What Opacus leaves behind are records (the inputs of layers) and the sum without noise.

    Raises:
        Exception: Opacus does not support a layer.
    """
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
            watching.outputs = None
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
