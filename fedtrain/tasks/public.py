"""Weights that nobody trains and that every machine has from a public source, so that they never travel.

A large pretrained model is adapted by few numbers. All else of it is frozen: a task declares where these weights come
from and their digest (`fedtrain.tasks.Task.public_weights`), each machine loads its own copy, and a copy of another
digest is refused before anything is trained. What is sent, clipped, masked, summed, digested and saved has none of
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks.user_code import kind_of, telling

if TYPE_CHECKING:
    from fedtrain.tasks.base import Task

_MARK: Final = "fedtrain_public"
_FORMAT: Final = "fedtrain.public/1\n"


@dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """What a task declares of the frozen parameters of its model.

    Attributes:
        origin: where they come from and what they were fitted on, in words. No epsilon covers what they know of it.
        digest: of their names, types, shapes and values, as `digest_of_frozen` computes it.
    """

    origin: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class HeldWeights:
    """The public weights of a model, as they were found on this machine.

    Attributes:
        names: in the state dict, in its order.
        origin: as declared.
        digest: of these weights.
        numbers: how many numbers they are.
        size: how many bytes.
    """

    names: tuple[str, ...]
    origin: str
    digest: str
    numbers: int
    size: int


def digest_of_frozen(model: nn.Module) -> str:
    """Return the SHA-256 of the frozen parameters of a model, in hexadecimal: names, types, shapes and values.

    >>> model = nn.Linear(2, 1).requires_grad_(False)
    >>> with torch.no_grad():
    ...     _ = model.weight.fill_(1.0), model.bias.fill_(0.0)
    >>> digest_of_frozen(model)[:16]
    '3b6d7a4c5f0e8a11'
    """
    return _digest(_frozen(model))


def declare_public(task: "Task", model: nn.Module) -> None:
    """Keep the frozen parameters of a model out of all that travels, where its task declares them public.

    Args:
        task: the task.
        model: its model; a copy of it is of the same weights.

    Raises:
        TaskError: the declaration is none, the model has nothing that is frozen, or it has other weights than those
            that are declared.
    """
    declared = getattr(task, "public_weights", None)
    if declared is None:
        return
    with telling("public_weights of the task"):
        found: object = declared(model)
    if found is None:
        return
    if not isinstance(found, PublicWeights):
        raise TaskError(
            "public_weights of the task is to return fedtrain.tasks.PublicWeights, or None where all weights travel, "
            f"and returned {kind_of(found)}"
        )
    if not found.origin.strip():
        raise TaskError(
            "public_weights of the task declares no origin: say where the frozen weights come from and what they were "
            "fitted on. No epsilon pays for what they know of it, so it is in the report"
        )
    frozen = _frozen(model)
    if not frozen:
        raise TaskError(
            "the task declares public weights, and its model has no frozen parameter: freeze what is not trained "
            "(requires_grad_(False)), as peft does, or return None from public_weights"
        )
    digest = _digest(frozen)
    if digest != found.digest:
        raise TaskError(
            f"the frozen weights of the model are other ones than its task declares: their digest is {digest}, and "
            f"public_weights has {found.digest}. The files on this machine are of another version or were changed; or "
            "a part of the network is in no file and was drawn at random, as a pooling layer often is; or the library "
            "that loads them gives them other names or types. Nothing was trained"
        )
    held = HeldWeights(
        names=tuple(frozen),
        origin=found.origin,
        digest=digest,
        numbers=sum(value.numel() for value in frozen.values()),
        size=sum(value.numel() * value.element_size() for value in frozen.values()),
    )
    setattr(model, _MARK, held)


def held_by(model: nn.Module) -> HeldWeights | None:
    """Return the public weights of a model; ``None`` where all of its weights travel."""
    held = vars(model).get(_MARK)
    return held if isinstance(held, HeldWeights) else None


def public_names(model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict of what never travels, each weight by the first of its names."""
    held = held_by(model)
    return frozenset() if held is None else frozenset(held.names)


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return frozen parameters that are in the state dict, each once and by the first of its names there."""
    state = model.state_dict(keep_vars=True)
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in state.items():
        if isinstance(value, nn.Parameter) and not value.requires_grad:
            found.setdefault(id(value), (name, value.detach()))
    return dict(found.values())


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = sha256(_FORMAT.encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
