"""Weights by what they are, and not by their names: a tensor that has two names is one weight.

Tied weights (``decoder.weight = embedding.weight``) are in a state dict under each of their names. What is clipped,
noised, masked, summed, sent, digested and saved by name would be so twice, and the copies would drift apart. So each
weight goes by the first of its names everywhere, and is loaded into all of them. Public weights, which every machine
has, are none of those that go anywhere (`fedtrain.tasks.public`).

>>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
>>> model[1].weight = model[0].weight
>>> list(weights_of(model))
['0.weight', '0.bias', '1.bias']
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.memory import LARGE
from fedtrain.tasks.public import declare_public, public_names
from fedtrain.tasks.user_code import made_model

if TYPE_CHECKING:
    from fedtrain.tasks.base import Task


def build_model(task: "Task") -> nn.Module:
    """Return the model of a task, in which each weight is one tensor.

    Parameters that are two objects on the same memory become one, and so do buffers: a copy of the model, or one on
    another device, keeps them together.

    Raises:
        TaskError: the model cannot be made, or not be sent; or two weights have a part of their memory in common, or
            one that is trained and one that is not; it names both. Or its public weights are not those of the task.
    """
    model = made_model(task)
    _write_out(model)
    held = _held(model)
    joined = {id(held[name].tensor): held[first].tensor for name, first in _same(held).items()}
    for name, each in held.items():
        if id(each.tensor) in joined:
            _put(model, name, joined[id(each.tensor)])
    declare_public(task, model)
    return model


def move_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the model to a device, where each weight is one tensor as before. Torch moves a buffer under each name."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(each.tensor), name) for name, each in _held(model).items()}
    model = model.to(device)
    held = _held(model)
    for name, known in names.items():
        if held[name].tensor is not held[known].tensor:
            _put(model, name, held[known].tensor)
    return model


def names_of(model: nn.Module) -> dict[str, str]:
    """Return the name that each name of the state dict goes by: the first one of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(value), name) for name, value in model.state_dict(keep_vars=True).items()}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what travels of the state dict, each weight once, detached and on the memory of the model."""
    state, names, public = model.state_dict(), names_of(model), public_names(model)
    return {name: value for name, value in state.items() if names[name] == name and name not in public}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights, as of `weights_of`, into the model under all their names.

    Raises:
        TaskError: a weight is missing, or is not one of the model; a second name of a weight is none.
        RuntimeError: a weight has another shape.
    """
    public = public_names(model)
    names = {name: first for name, first in names_of(model).items() if first not in public}
    if missing := sorted(set(names.values()) - set(weights)):
        raise TaskError(f"the weights {', '.join(missing[:3])} of the model are missing")
    if strange := sorted(set(weights) - set(names.values())):
        known = names.get(strange[0])
        why = f"is the same tensor as {known}, and goes by that name" if known else "is none of the model's weights"
        if strange[0] in public:
            why = "is a public weight, which this machine has, and which is taken from nobody"
        raise TaskError(f"{strange[0]} {why}")
    model.load_state_dict({name: weights[first] for name, first in names.items()}, strict=not public)


def forget_weights(model: nn.Module) -> None:
    """Let the system take back the memory of large weights that travel. They are any numbers until they are loaded.

    What is on a GPU stays. So does what another tensor, array or process sees: a model may keep what it began with as a
    constant, and in a copy of it that is no view of the weight any more. And so does all of a model that loads weights
    in a way of its own, and may keep some.
    """
    if not _loads_all(model):
        return
    for weight in weights_of(model).values():
        storage = weight.untyped_storage()
        if _is_all_of(weight, storage) and storage.resizable() and _is_seen_by_nobody_else(storage):
            size = storage.nbytes()
            storage.resize_(0)
            storage.resize_(size)  # pages of the system that nobody has written


def drained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Give what travels of the state dict, as `weights_of` does, and take what is large out of the model.

    So it is in memory once, when it is sent. The model is of no use afterwards.
    """
    state = model.state_dict(keep_vars=True)
    for name in weights_of(model):
        weight = state.pop(name)
        value = weight.detach()
        if _is_all_of(value, value.untyped_storage()):
            weight.data = weight.data.new_empty(0)
        yield name, value
        del value


def _is_all_of(weight: Tensor, storage: torch.UntypedStorage) -> bool:
    """Say whether a weight is large, and all that is on its memory."""
    return weight.device.type == "cpu" and storage.nbytes() == weight.nbytes > LARGE


def _loads_all(model: nn.Module) -> bool:
    """Say whether loading a state dict is all torch's own, in each module."""
    return all(
        not module._load_state_dict_pre_hooks  # noqa: SLF001 - no seam
        and type(module).load_state_dict is nn.Module.load_state_dict
        and type(module)._load_from_state_dict.__module__.startswith("torch.")  # noqa: SLF001 - likewise
        for module in model.modules()
    )


def _is_seen_by_nobody_else(storage: torch.UntypedStorage) -> bool:
    """Say whether three share a storage: the weight of the model, the same one detached, and the object given here."""
    return not storage.is_shared() and torch._C._storage_Use_Count(storage._cdata) == 3  # noqa: PLR2004, SLF001 - above


def second_names(model: nn.Module) -> dict[str, str]:
    """Return the further names of weights that have several, and the one that each goes by."""
    public = public_names(model)
    return {name: first for name, first in names_of(model).items() if name != first and first not in public}


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A tensor that a module holds under a name.

    Attributes:
        tensor: the parameter or buffer itself.
        kind: whether it is trained, a frozen parameter, or a buffer.
        sent: whether it is in the state dict. Buffers need not be.
    """

    tensor: Tensor
    kind: str
    sent: bool


def _held(model: nn.Module) -> dict[str, _Held]:
    """Return all parameters, and then all buffers, under all their names."""
    parameters = model.named_parameters(remove_duplicate=False)
    found = {
        name: _Held(tensor=value, kind="parameter" if value.requires_grad else "frozen parameter", sent=True)
        for name, value in parameters
    }
    state, buffers = model.state_dict(), model.named_buffers(remove_duplicate=False)
    return found | {name: _Held(tensor=value, kind="buffer", sent=name in state) for name, value in buffers}


def _write_out(model: nn.Module) -> None:
    """Replace tensors that torch conjugates or negates only when it reads them: NumPy and files have their memory."""
    held = _held(model)
    written: dict[int, Tensor] = {}
    for name, each in held.items():
        if each.tensor.is_conj() or each.tensor.is_neg():
            values = each.tensor.detach().resolve_conj().resolve_neg()
            if isinstance(each.tensor, nn.Parameter):
                values = nn.Parameter(values, requires_grad=each.tensor.requires_grad)
            _put(model, name, written.setdefault(id(each.tensor), values))


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, tensor)


def _same(held: Mapping[str, _Held]) -> dict[str, str]:
    """Return the first names of tensors that are on the memory of an earlier one, and that one's.

    Raises:
        TaskError: two are on parts of the same memory, or one overlaps itself, or they are not of one kind.
    """
    first: dict[tuple[int, str], str] = {}
    for name, each in held.items():
        first.setdefault((id(each.tensor), each.kind), name)
    blocks = sorted((_Block.of(name, held[name].tensor) for name in first.values()), key=lambda block: block.start)
    blocks = [block for block in blocks if block.end > block.start]
    for block in blocks:
        if held[block.name].sent and block.overlaps_itself():
            raise TaskError(
                f"the weight {block.name} of the model has the same memory in several places, as of expand(): torch "
                "cannot write it; make it a tensor of its own with .clone()"
            )
    same: dict[str, str] = {}
    order = list(held)
    for index, block in enumerate(blocks):
        for other in blocks[index + 1 :]:
            if other.start >= block.end:
                break
            one, two = sorted((block.name, other.name), key=order.index)
            kinds = held[one].kind, held[two].kind
            # Of two buffers one may be a view of the other where it is not sent.
            if not block.overlaps(other) or (kinds == ("buffer", "buffer") and not held[one].sent & held[two].sent):
                continue
            if not block.equals(other) or kinds[0] != kinds[1]:
                raise TaskError(_refusal(one, two, kinds, whole=block.equals(other)))
            same.setdefault(two, one)
    return same


def _refusal(one: str, two: str, kinds: tuple[str, str], *, whole: bool) -> str:
    if whole:
        return (
            f"the {kinds[1]} {two} of the model is on the memory of the {kinds[0]} {one}: a weight is trained, frozen "
            f"or a buffer, and not two of these under two names; leave {two} out, and use {one} in the forward pass, "
            "with .detach() where it is to be a constant"
        )
    return (
        f"the {kinds[1]} {two} of the model is on a part of the memory of the {kinds[0]} {one}, or has it in another "
        "form: what is clipped, noised and summed under one name would change the other; hold one of them, and take "
        "the part of it in the forward pass, or make them two with .clone()"
    )


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Where a tensor is in memory.

    Attributes:
        name: of the tensor.
        device: that it is on.
        start, end: addresses of its first byte and after its last one; equal if it has none.
        dtype: its type.
        form: the size of each dimension, and its stride in elements; that of one element is 0.
    """

    name: str
    device: str
    start: int
    end: int
    dtype: torch.dtype
    form: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "_Block":
        if tensor.layout is not torch.strided or not tensor.numel():
            start, form = 0, []
        else:
            sizes = zip(tensor.shape, tensor.stride(), strict=True)
            start, form = tensor.data_ptr(), [(size, stride if size > 1 else 0) for size, stride in sizes]
        reach = sum((size - 1) * stride for size, stride in form) + 1
        return cls(
            name=name,
            device=str(tensor.device),
            start=start,
            end=start + reach * tensor.dtype.itemsize if start else start,
            dtype=tensor.dtype,
            form=tuple(form),
        )

    def equals(self, other: "_Block") -> bool:
        return replace(self, name="") == replace(other, name="")

    def overlaps(self, other: "_Block") -> bool:
        """Return whether a byte is in both. Columns of one matrix are between each other, and have none in common."""
        if self.device != other.device or self.end <= other.start or other.end <= self.start:
            return False
        return self.equals(other) or bool(np.isin(self.bytes(), other.bytes()).any())

    def overlaps_itself(self) -> bool:
        reach = 0
        for size, stride in sorted(self.form, key=itemgetter(1)):
            if size > 1 and stride <= reach:
                found = self.bytes()
                return len(np.unique(found)) < len(found)
            reach += (size - 1) * stride
        return False

    def bytes(self) -> NDArray[np.int64]:
        """Return the address of each byte."""
        found = np.array([self.start], dtype=np.int64)
        for size, stride in self.form:
            found = np.add.outer(found, np.arange(size) * stride * self.dtype.itemsize).ravel()
        return np.add.outer(found, np.arange(self.dtype.itemsize)).ravel()
