"""Call the user's code and tell its errors; models of the user's that can be sent and copied.

What the user's code raises is a `TaskError` that names what was called, and the file and line of the user's code where
it happened. A model whose weights cannot be sent is refused by the name of the weight.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import fedtrain
from fedtrain.errors import FedtrainError, TaskError

if TYPE_CHECKING:
    from fedtrain.tasks.base import Task

_LIBRARIES: Final = tuple(str(Path(str(module.__file__)).parent) for module in (fedtrain, torch, np, traceback))

_LONGEST: Final = 800  # characters of a message


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a `TaskError` that says where.

    Args:
        what: names what is called, such as "collate of the task".

    Raises:
        TaskError: it raised something, or wanted the interpreter to end.
    """
    try:
        yield
    except FedtrainError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"{what} raised {described(error)}") from error


def described(error: BaseException) -> str:
    """Return the type and the message of an error, and the last line of the user's code on the way to it."""
    message = str(error)[:_LONGEST].strip()  # of a message of torch's, which may list all its kernels, the beginning
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_LIBRARIES, "<frozen"))
    ]
    if not frames or isinstance(error, SyntaxError):  # whose message has the place
        return text
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def made_model(task: "Task") -> nn.Module:
    """Return what ``model`` of the task makes, if it is a model whose weights can be sent.

    Raises:
        TaskError: ``model`` fails or returns no module, or a weight has no shape, no values, or numbers that NumPy does
            not have. It names the weight.
    """
    with telling("model() of the task"):
        model: object = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"model() of the task is to return a torch.nn.Module, and returned {kind_of(model)}")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise TaskError(
                f"the model has a lazy layer: {name} has no shape before the first call. Write the layer with its "
                "sizes, nn.Linear(inputs, outputs) for nn.LazyLinear(outputs); or call the model once in model(), on "
                "zeros of the shape in the DataInfo"
            )
    with telling("state_dict() of the model"):
        state = model.state_dict()
    for name, value in state.items():
        _refuse_unsendable(name, value)
    for name, value in model.named_parameters():
        if value.requires_grad and not bool(value.detach().isfinite().all()):
            raise TaskError(
                f"the weight {name} of the model has values that are not finite before any training; check how model() "
                "initialises it"
            )
    return model


def _refuse_unsendable(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TaskError(
            f"the model keeps {kind_of(value)} as {name} in its state dict (get_extra_state), and only tensors are "
            "sent; keep it in an ordinary attribute, or in a buffer"
        )
    if value.is_meta:
        raise TaskError(f'the weight {name} of the model has no values (device "meta"); build the model on the CPU')
    if value.layout != torch.strided:
        raise TaskError(f"the weight {name} of the model is sparse ({value.layout}); send it dense: {name}.to_dense()")
    try:
        torch.empty(0, dtype=value.dtype).numpy()
    except (TypeError, RuntimeError) as error:
        raise TaskError(
            f"the weight {name} of the model has the type {value.dtype}, in which no model can be sent: NumPy has no "
            "such numbers. Make the model of float32 (model.float()); to compute in bfloat16, write "
            "torch.autocast(device_type, dtype=torch.bfloat16) around what forward of the model does"
        ) from error


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of the model, as each client trains one.

    Raises:
        TaskError: it cannot be copied, or the copy cannot be trained.
    """
    try:
        copy = deepcopy(model)
    except Exception as error:
        raise TaskError(
            f"the model cannot be trained: a copy of it cannot be made (copy.deepcopy): {described(error)}; in the "
            "place of nn.utils.weight_norm use nn.utils.parametrizations.weight_norm, and keep files, locks and "
            "generators out of the model"
        ) from error
    for name, value in copy.named_parameters():
        if not value.is_leaf:  # torch computes no gradient of it, and an optimizer leaves it as it is
            raise TaskError(
                f"the model cannot be trained: in a copy of it (copy.deepcopy) {name} is no weight, but computed from "
                "one. A copy of what torch.jit.script or torch.jit.trace made is such: return the model itself"
            )
    return copy


def kind_of(value: object) -> str:
    """Return what a value is, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"
