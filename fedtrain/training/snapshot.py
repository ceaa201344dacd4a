"""What a model computes by, so that it can be told whether a model is another than one that was tried.

A preflight is remembered for the models that it holds for: those that differ in the values of their weights alone. A
number in an attribute, a hook, or a ``forward`` that somebody set on a layer may make records meet.
"""

from collections import deque
from functools import partial
from hashlib import sha256
from types import CellType, FunctionType, MethodType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fedtrain.training.state import OF_TORCH

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def made_of(model: nn.Module) -> tuple[Any, ...]:
    """Return something that is equal for a model and its copy, whatever their weights, and for no other model.

    It has the kinds of layers, the shapes of weights, what layers keep in ordinary attributes, their hooks, and the
    code of their ``forward``. An object of a kind that is not known here is equal to itself alone.
    """
    layers = list(model.named_modules())
    seen: dict[int, tuple[object, object]] = {id(layer): (layer, name) for name, layer in layers}
    kept = [
        (
            name,
            _Itself(type(layer)),
            _Itself(getattr(type(layer), "forward", None)),
            [(key, _snapshot(value, seen)) for key, value in vars(layer).items() if key not in OF_TORCH],
            [_snapshot(value, seen) for key, value in vars(layer).items() if key.endswith("_hooks")],
        )
        for name, layer in layers
    ]
    weights = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return repr(model), kept, [(name, *_form(each)) for name, each in weights]


class _Itself:
    """An object that equals itself alone. As it is kept, no other object can come to have its address."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _form(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.dtype, value.device, value.requires_grad


def _snapshot(value: Any, seen: dict[int, tuple[object, object]]) -> Any:
    """Return what stays as it is, and is equal for a copy. What was seen before, and is kept there, is a reference."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    if id(value) in seen:
        return "seen", seen[id(value)][1]
    seen[id(value)] = (value, len(seen))
    if isinstance(value, Tensor):
        values = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return type(value), *_form(value), sha256(values.numpy().tobytes()).digest()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return type(value), value.shape, value.dtype.str, sha256(value.tobytes()).digest()
    itself, inside = _opened(value)
    return _Itself(itself), [_snapshot(each, seen) for each in inside]


def _opened(value: Any) -> tuple[object, list[Any]]:
    """Return what of an object is the same in a copy, and what is inside of it."""
    itself: object = type(value)
    inside: list[Any] = []
    match value:
        case dict():
            inside = [each for item in value.items() for each in item]
        case list() | tuple() | deque():
            inside = list(value)
        case partial():
            inside = [value.func, value.args, value.keywords]
        case FunctionType():
            itself, inside = value, [value.__closure__, value.__defaults__, value.__kwdefaults__]
        case MethodType():
            itself, inside = value.__func__, [value.__self__]
        case CellType():
            inside = _content(value)
        case _ if hasattr(value, "__dict__") and not isinstance(value, type):
            inside = [vars(value)]
        case _:
            itself = value
    return itself, inside


def _content(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # it is empty
        return []
