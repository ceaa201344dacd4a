"""Weights that nobody trains and that every machine has from a public source, so that they never travel.

A large pretrained model is adapted by few numbers. All else of it is frozen: a task declares where these weights come
from and their digest (`fedtrain.tasks.Task.public_weights`), each machine loads its own copy, and a copy of another
digest is refused before anything is trained. What is sent, clipped, masked, summed, digested and saved has none of
them.

Buffers belong to them, such as the statistics of a frozen batch normalisation or the scales of quantized weights: with
other ones the same frozen weights are another network. Those alone travel that a module holds beside parameters of its
own that are trained. A buffer that is not persistent is in no state dict; it comes of the code, and travels nowhere.
"""

from collections.abc import Callable, Mapping
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
_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """What a task declares of the frozen parameters of its model, and of its buffers.

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
    """Return the SHA-256 of the frozen weights of a model, in hexadecimal: names, types, shapes and values.

    They are the frozen parameters and the buffers in the state dict, those apart that a module holds beside parameters
    of its own that are trained.

    >>> model = nn.Linear(2, 1).requires_grad_(False)
    >>> with torch.no_grad():
    ...     _ = model.weight.fill_(1.0), model.bias.fill_(0.0)
    >>> digest_of_frozen(model)[:16]
    '1d4ef88102843251'
    """
    return _digest(_frozen(model))


def declare_public(task: "Task", model: nn.Module) -> None:
    """Keep the frozen weights of a model out of all that travels, where its task declares them public.

    Args:
        task: the task.
        model: its model; a copy of it is of the same weights.

    Raises:
        TaskError: the declaration is none, or says of any weights that they are the declared ones; or the model has
            nothing that is frozen, or frozen weights outside of its state dict, or other ones than those that are
            declared.
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
    if not any(not value.requires_grad for value in model.parameters()):
        raise TaskError(
            "the task declares public weights, and its model has no frozen parameter: freeze what is not trained "
            "(requires_grad_(False)), as peft does, or return None from public_weights"
        )
    if hidden := _outside(model, frozen):
        raise TaskError(
            f"the task declares public weights, and the frozen parameter {hidden} of its model is not in the state "
            "dict, which is what is compared and saved: nobody would see that a machine has another one. Leave "
            "state_dict() and its hooks as they are, or make it a constant that the code computes"
        )
    digest = _digest(frozen)
    if digest != found.digest:
        raise TaskError(
            f"the frozen weights of the model are other ones than its task declares: their digest is {digest}, and "
            f"public_weights has {found.digest}. The files on this machine are of another version or were changed; or "
            "a part of the network is in no file and was drawn at random, as a pooling layer often is; or the library "
            "that loads them gives them other names or types. Nothing was trained"
        )
    if _follows(declared, model, frozen, digest):
        raise TaskError(
            "public_weights of the task computes its digest from the model that it is given, and so takes whatever "
            f"weights a machine has for the declared ones. Write the digest down in the task: here it is {digest}"
        )
    held = HeldWeights(
        names=tuple(frozen),
        origin=found.origin,
        digest=digest,
        numbers=sum(value.numel() for value in frozen.values()),
        size=sum(value.numel() * value.element_size() for value in frozen.values()),
    )
    setattr(model, _MARK, held)


def changed_weights(model: nn.Module, trained: nn.Module) -> list[str]:
    """Return the names of public weights that are not as they were, or that are trained, in a copy of a model.

    Args:
        model: as it was made.
        trained: a copy that was trained since, on the same device.
    """
    before, after = model.state_dict(), trained.state_dict(keep_vars=True)
    held = held_by(model)
    names = () if held is None else held.names
    return [name for name in names if after[name].requires_grad or not _equal(before[name], after[name].detach())]


def refuse_changed(model: nn.Module, trained: nn.Module) -> None:
    """Refuse a model in which something trained, or wrote, what is declared public.

    Raises:
        TaskError: names some of the weights.
    """
    if changed := changed_weights(model, trained):
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise TaskError(
            f"the model trains or writes weights that its task declares public: {', '.join(changed[:_SHOWN])}{more}. "
            "They never travel, so that each client would go on with its own, and the released model has none of them. "
            "Look for requires_grad_() in train() or forward(), for a copy of the model that follows its weights, and "
            "for statistics of a frozen batch normalisation, which is to stay in eval(); or return None from "
            "public_weights"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - NaN


def held_by(model: nn.Module) -> HeldWeights | None:
    """Return the public weights of a model; ``None`` where all of its weights travel."""
    held = vars(model).get(_MARK)
    return held if isinstance(held, HeldWeights) else None


def public_names(model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict of what never travels, each weight by the first of its names."""
    held = held_by(model)
    return frozenset() if held is None else frozenset(held.names)


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return frozen weights that are in the state dict, each once and by the first of its names there."""
    buffers = {id(value) for value in model.buffers()} - _beside_trained(model)
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in buffers or (isinstance(value, nn.Parameter) and not value.requires_grad):
            found.setdefault(id(value), (name, value.detach()))
    return dict(found.values())


def _beside_trained(model: nn.Module) -> set[int]:
    """Return which buffers a module holds beside parameters of its own that are trained."""
    return {
        id(buffer)
        for module in model.modules()
        if any(value.requires_grad for value in module.parameters(recurse=False))
        for buffer in module.buffers(recurse=False)
    }


def _outside(model: nn.Module, frozen: Mapping[str, Tensor]) -> str:
    """Return the name of a frozen parameter that is not in the state dict, or nothing."""
    found = {value.data_ptr() for value in frozen.values()}
    return next(
        (
            name
            for name, value in model.named_parameters()
            if not value.requires_grad and value.numel() and value.data_ptr() not in found
        ),
        "",
    )


def _follows(
    declared: Callable[[nn.Module], object], model: nn.Module, frozen: Mapping[str, Tensor], digest: str
) -> bool:
    """Say whether a declaration goes by the weights that it is given: it is asked again with one that is another."""
    value = min((each for each in frozen.values() if each.numel()), key=Tensor.numel, default=None)
    if value is None:
        return False
    kept = value.clone()
    try:
        value.zero_() if value.any() else value.fill_(1)
        other = declared(model)
    except Exception:  # noqa: BLE001 - of the user's code, which may compare the weights itself
        return False
    finally:
        value.copy_(kept)
    return isinstance(other, PublicWeights) and other.digest != digest


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = sha256(_FORMAT.encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
