"""Try a task of the user's own once, on a few records, before anything is trained or spent."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks.base import Batch, Records, Task
from fedtrain.tasks.calls import collate, forward, losses, to_device
from fedtrain.tasks.language import Language
from fedtrain.tasks.supervised import Supervised
from fedtrain.tasks.user_code import kind_of, made_model, telling
from fedtrain.tasks.weights import weights_of


def require_same_model(task: Task, model: nn.Module) -> None:
    """Refuse a task whose next model has other weights than this one, which the clients could not take, or these ones.

    A run writes what it learnt into its model. One that is made once and returned at every call would give it to the
    next run in the program as a beginning, which no epsilon of that run pays for.

    Raises:
        TaskError: names the first weight that differs, or that is on the memory of one of this model.
    """
    with torch.random.fork_rng(devices=[]):
        again = made_model(task)
    ours, theirs = _form(model), _form(again)
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            raise TaskError(
                f"model() of the task gives another model each time: the weight {name} is {_shown(ours.get(name))} in "
                f"one and {_shown(theirs.get(name))} in the next; each client builds a model of its own, and they are "
                "to be alike but for the values"
            )
    taken = {value.untyped_storage().data_ptr() for value in weights_of(model).values() if value.numel()}
    for name, value in again.state_dict().items():
        if value.numel() and value.untyped_storage().data_ptr() in taken:
            raise TaskError(
                f"model() of the task gives the same weights each time: {name} is on the same memory in one and in "
                "the next. A run writes into the model what it learnt, and the next run in this program would begin "
                "with that, outside of its epsilon. Make the model within model(), or return copy.deepcopy of one that "
                "is kept"
            )


def _form(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}


def _shown(form: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "not there" if form is None else f"{form[1]} of shape {form[0]}"


def try_training(task: Task, model: nn.Module, records: Records) -> None:
    """Do what a client does with a batch, up to the gradients. The model is spoiled by it: give a copy.

    Torch's generator may be drawn from.

    Args:
        task: the task.
        model: a copy of its model.
        records: two or more.

    Raises:
        TaskError: the code of the task fails, returns something else than it is to, a model of a language looks
            at what it predicts, or no gradient reaches the model.
    """
    device = next(model.parameters()).device
    model.train()
    with telling("collate of the task"):
        batch = to_device(collate(task, records, torch.Generator().manual_seed(0)), device)
    with telling("forward of the task"):
        outputs = forward(task, model, batch)
    if isinstance(task, Supervised) and outputs.shape[1:] != task.returned:
        takes = " x ".join(map(str, task.returned))
        raise TaskError(
            f"the model returns {_numbers(outputs)} for a record, and the task takes {takes}; set the size of its last "
            "layer"
        )
    if isinstance(task, Language) and type(task).collate is Language.collate:
        _refuse_foresight(task, model, batch)
    with telling("losses of the task"):
        found = losses(task, outputs, batch)
    if not bool(found.isfinite().any()):
        raise TaskError(
            f"losses of the task is not finite for any of the {len(found)} test records that were tried; check the "
            "loss, and the range of the features"
        )
    if not found.requires_grad:
        raise TaskError(
            "losses of the task has no gradient: it is computed from outputs that were cut off from the model, by "
            "detach(), item(), numpy() or torch.no_grad()"
        )
    with telling("the backward pass from losses of the task"):
        torch.autograd.backward(found.mean())


def _refuse_foresight(task: Language, model: nn.Module, batch: Batch) -> None:
    """Refuse a model that looks at the tokens which it predicts: it would be measured by what it copies.

    Raises:
        TaskError: what it says of the first places depends on the tokens behind them.
    """
    place = task.info.shape[0] // 2
    changed = batch["inputs"].clone()
    changed[:, place:] = (changed[:, place:] + 1) % task.outputs
    model.eval()
    with telling("forward of the task"), torch.no_grad():
        before, after = (forward(task, model, batch | {"inputs": inputs}) for inputs in (batch["inputs"], changed))
    model.train()
    if not torch.allclose(before[:, :place], after[:, :place], rtol=1e-3, atol=1e-4, equal_nan=True):
        raise TaskError(
            "the model looks at tokens behind the place of which it says what stands there, so that it would copy them "
            "and not predict: let each place see those before it alone, for example with a causal mask, or a recurrent "
            "layer of one direction"
        )


def _numbers(outputs: Tensor) -> str:
    return "one number" if outputs.ndim == 1 else f"{' x '.join(map(str, outputs.shape[1:]))} numbers"


def measurements(found: object) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a task measured as JSON can hold it, and the names of what is not finite, which is ``None`` there.

    Tensors and arrays become numbers and lists.

    Raises:
        TaskError: it is no mapping, or a measurement is nothing that JSON has, which it names.
    """
    if not isinstance(found, Mapping):
        raise TaskError(
            f"compute of the task's metrics is to return a dict of numbers by name, and returned {kind_of(found)}"
        )
    broken: list[str] = []
    return {str(name): _plain(value, str(name), broken) for name, value in found.items()}, tuple(dict.fromkeys(broken))


def _plain(value: object, name: str, broken: list[str]) -> object:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name, broken) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name, broken) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        broken.append(name)
        return None
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TaskError(
            f"compute of the task's metrics returned {kind_of(value)} as {name}, which no report can hold: return "
            "numbers, tensors or arrays, and lists and mappings of them"
        )
    return value
