"""What the forward pass writes, and what it draws.

A record must leave nothing behind that another record's gradient is computed from. Parameters and buffers may not be
written at all, since they are released, or read by the next record. What a layer, the model or the task keeps in an
ordinary attribute may be written where nothing reads it again. What a model draws at random is held still, so that its
losses can be compared.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedtrain.errors import TaskError
from fedtrain.tasks import Task

# An object of a user may hold many others.
_DEPTH, _MOST = 4, 20_000
_OTHER = 1_000_003
OF_TORCH = frozenset(vars(nn.Module()))
"""The attributes of every module."""

Kept = dict[str, Any]
"""Copies of the tensors and numbers in ordinary attributes, by where they are."""


class Weights:
    """Parameters and buffers of a model as they were when this was made, or when they were marked last."""

    def __init__(self, model: nn.Module, *, values: bool = True) -> None:
        self._layers = list(model.named_modules())
        self.mark(values=values)

    def mark(self, *, values: bool = True) -> None:
        """Take parameters and buffers as they are now.

        Args:
            values: compare the values of parameters too; otherwise which tensors they are, and torch's count of writes.
        """
        weights = list(self._weights())
        self._versions = {key: _version(value) for key, value in weights if isinstance(value, nn.Parameter)}
        self._values = {
            key: value.detach().clone() for key, value in weights if values or not isinstance(value, nn.Parameter)
        }

    def refuse_written(self) -> None:
        """Refuse a forward pass that wrote a parameter or a buffer.

        Raises:
            TaskError: names it.
        """
        for key, value in self._weights():
            kind = "parameter" if isinstance(value, nn.Parameter) else "buffer"
            counted = kind == "buffer" or self._versions.get(key) == _version(value)
            if not counted or (key in self._values and not _same(value, self._values[key])):
                number, name = key
                path = ".".join(part for part in (self._layers[number][0], name) if part)
                raise TaskError(
                    f"the model cannot be trained privately: its {kind} {path} changes in the forward pass, so that "
                    "records are in the gradients of other records, or in the released model without noise; remove "
                    "it, or leave it as it is in training mode"
                )

    def _weights(self) -> Iterator[tuple[tuple[int, str], Tensor]]:
        # Faster than named_parameters, which a step does not wait for.
        for number, (_, layer) in enumerate(self._layers):
            for kept in (layer._parameters, layer._buffers):  # noqa: SLF001 -- as above
                for name, value in kept.items():
                    if value is not None:
                        yield (number, name), value


def kept(model: nn.Module, task: Task) -> Kept:
    """Return what the model and the task keep in ordinary attributes."""
    return {path: _copy(value) for path, _, _, value in _leaves(model, task)}


def refuse_read(before: Kept, model: nn.Module, task: Task, loss: Callable[[], Tensor]) -> None:
    """Refuse a forward pass that wrote an attribute and reads it again.

    Each value that was written is replaced by another one, and it is seen whether that matters.

    Args:
        before: what was kept before.
        model: the model.
        task: its task.
        loss: computes the loss of one record.

    Raises:
        TaskError: names the attribute.
    """
    changed = {path for path, _, _, value in _leaves(model, task) if not _same(value, before.get(path))}
    if not changed:
        return
    expected = loss()
    for path, owner, key, value in list(_leaves(model, task)):
        poison = _poison(value)
        if path not in changed or poison is None:
            continue
        with _replaced(owner, key, value, poison):
            try:
                read = not _same(loss(), expected)
            except Exception:  # noqa: BLE001 -- of the user's code, which met what it did not expect
                read = True
        if read:
            raise TaskError(
                f"the model cannot be trained privately: the forward pass writes the attribute {path} and reads it "
                "again in a later one, so that records are in the gradients of other records; compute it from each "
                "record alone, or make it a constant"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Marks:
    """What a task consists of, to see whether it changed.

    Attributes:
        parts: its methods and attributes, and what is inside of these. As they are kept, no other object can come to
            have the address of one.
        versions: how often each tensor among them was written.
    """

    parts: tuple[Any, ...]
    versions: tuple[int, ...]

    @classmethod
    def of(cls, task: Task) -> "Marks":
        """Mark a task."""
        methods = [value for kind in type(task).__mro__ for value in vars(kind).values()]
        held = vars(task).values() if hasattr(task, "__dict__") else ()
        leaves = [value for _, _, _, value in _leaves(nn.Module(), task)]
        versions = tuple(_version(each)[1] for each in leaves if isinstance(each, Tensor))
        return cls(parts=(*methods, *held, *leaves), versions=versions)

    def same(self, other: "Marks") -> bool:
        """Return whether nothing changed between two of them."""
        return (
            len(self.parts) == len(other.parts)
            and all(_unchanged(one, two) for one, two in zip(self.parts, other.parts, strict=True))
            and self.versions == other.versions
        )


def _unchanged(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, (int, float, str)) and type(one) is type(other) and one == other)


def _version(tensor: Tensor) -> tuple[int, int]:
    """Return which tensor it is, and how often it was written."""
    return id(tensor), tensor._version  # noqa: SLF001 -- torch has no other count of writes


def _leaves(model: nn.Module, task: Task) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield (path, owner, key, value) of tensors and numbers, through containers and plain objects."""
    seen, left = {id(model), id(task)}, _MOST
    todo: list[tuple[str, Any, int]] = [(name, layer, 0) for name, layer in model.named_modules()]
    todo.append((type(task).__name__, task, 0))
    while todo and left > 0:
        path, owner, depth = todo.pop()
        for key, value in _items(owner):
            left -= 1
            where = f"{path}.{key}" if path else str(key)
            if value is None or isinstance(value, (Tensor, int, float)):
                yield where, owner, key, value
            elif depth < _DEPTH and id(value) not in seen and not isinstance(value, (nn.Module, type, str, bytes)):
                seen.add(id(value))
                todo.append((where, value, depth + 1))


def _items(owner: Any) -> list[tuple[Any, Any]]:
    if isinstance(owner, dict):
        return list(owner.items())
    if isinstance(owner, (list, tuple, deque)):
        return list(enumerate(owner))
    attributes = vars(owner) if hasattr(owner, "__dict__") else {}
    of_torch = OF_TORCH if isinstance(owner, nn.Module) else frozenset()
    return [(key, value) for key, value in attributes.items() if key not in of_torch]


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return type(one) is type(other) and (one is other or bool(one == other))
    if not isinstance(other, Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point():
        return torch.allclose(one.detach(), other.detach(), rtol=0.0, atol=0.0, equal_nan=True)
    return torch.equal(one, other)


def _poison(value: Any) -> Any:
    """Return something else of the kind of a value; ``None`` where there is nothing of it."""
    match value:
        case Tensor():
            return torch.full_like(value.detach(), float("nan") if value.is_floating_point() else 1)
        case bool():
            return not value
        case int():
            return value + _OTHER
        case float():
            return float("nan")
    return None


class _replaced:  # noqa: N801 -- a context manager
    """While it is entered, another value is in the place of one."""

    def __init__(self, owner: Any, key: Any, value: Any, other: Any) -> None:
        self._owner, self._key, self._value, self._other = owner, key, value, other

    def _put(self, value: Any) -> None:
        if isinstance(self._owner, (dict, list, deque)):
            self._owner[self._key] = value
        elif isinstance(self._owner, tuple):
            if isinstance(value, Tensor):
                self._value.data.copy_(value)
        else:
            vars(self._owner)[self._key] = value

    def __enter__(self) -> None:
        if isinstance(self._owner, tuple) and isinstance(self._value, Tensor):
            self._back = self._value.detach().clone()
        else:
            self._back = self._value
        self._put(self._other)

    def __exit__(self, *_: object) -> None:
        self._put(self._back)


Level = Literal["middle", "zeros", "low", "high", "low and zeros", "high and zeros"]
"""Which constants stand for draws. A branch that depends on a draw is taken at one of them."""

# Where coins that may show 0 do.
_ZEROS: Final[dict[Level, Level]] = {"middle": "zeros", "low": "low and zeros", "high": "high and zeros"}
_UNIFORM: Final[dict[str, float]] = {"middle": 0.5, "zeros": 0.5, "low": 0.02, "high": 0.98}
_NORMAL: Final[dict[str, float]] = {"middle": 0.5, "zeros": 0.5, "low": -2.0, "high": 2.0}
_NORMALS = frozenset({"randn", "randn_like", "normal", "normal_", "normal_functional"})
_NUMBERS = _NORMALS.union(
    ("rand", "rand_like", "uniform", "uniform_", "exponential", "exponential_", "cauchy_", "log_normal_"),
    ("geometric_", "poisson", "binomial", "_standard_gamma", "_sample_dirichlet"),
)
_BETWEEN = frozenset({"randint", "randint_like", "random", "random_"})
_COINS = frozenset({"bernoulli", "bernoulli_"})
_OTHERS = frozenset({"randperm", "multinomial"})
_LEAKS = frozenset({"rrelu_with_noise", "rrelu_with_noise_"})
# What these take: values, where to note slopes, the least and the largest slope, and whether to draw.
_RRELU = (None, None, 0.125, 1 / 3, False)


class Still(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """While it is entered, every draw of torch is the same constant, in a batch and alone.

    A coin that may show 1 does, so that dropout keeps everything. A permutation moves every record by one, so that
    records that are mixed at random still meet.

    Args:
        level: whether numbers are in the middle of their range, near its low end or near its high end; or whether coins
            that may show 0 do.

    Attributes:
        drew: whether anything was drawn without a generator that the caller names.
        named: whether draws from a generator that the caller names are held still too.
        others: the levels at which something else would have been drawn.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to import the compiler takes seconds

    def __init__(self, level: Level = "middle") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._level: Level = level
        self.drew = False
        self.named = False
        self.others: set[Level] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and replace what it drew."""
        del types
        name = func.name().removeprefix("aten::").split(".")[0]
        if name == "native_dropout":
            self.drew = True
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name in _LEAKS:
            return self._leaked(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        by_name = (kwargs or {}).get("generator") is not None
        if by_name and not self.named:
            return result
        if not isinstance(result, Tensor) or name not in _NUMBERS | _BETWEEN | _COINS | _OTHERS:
            return result
        self.drew |= not by_name
        if name in _COINS:
            self.others.add(_ZEROS.get(self._level, self._level))
        elif name != "randperm":
            self.others |= {"low", "high"}
        return result.copy_(_constant(name, args, result, self._level))

    def _leaked(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a ReLU of random slopes with one slope. The backward pass reads it where drawn ones are noted."""
        taken, noted, least, largest, draws = (*args, *_RRELU[len(args) :])[:5]
        if not draws:
            return func(*args, **kwargs)
        self.drew = True
        self.others |= {"low", "high"}
        slope = least + (largest - least) * _UNIFORM[_end(self._level)]
        noted.copy_(torch.where(taken > 0, 1.0, slope))
        return taken.mul_(noted) if func.name().endswith("_") else taken * noted


def _end(level: Level) -> str:
    return level.removesuffix(" and zeros")


def _constant(name: str, args: tuple[Any, ...], drawn: Tensor, level: Level) -> Tensor:
    """Return what stands for a draw, of a shape that expands to that of the draw."""
    if name == "randperm":
        return torch.arange(len(drawn)).roll(1)
    if name in _COINS:
        # The chance is the second argument; that of bernoulli may be in the first, one for each value.
        chance = torch.as_tensor(args[1] if len(args) > 1 else args[0] if name == "bernoulli" else 0.5)
        return chance >= 1 if level in _ZEROS.values() else chance > 0
    end = _end(level)
    if name in _NUMBERS:
        return torch.tensor((_NORMAL if name in _NORMALS else _UNIFORM)[end])
    # From a number that may be left out to one that is not reached.
    ends = [args[0].shape[-1]] if name == "multinomial" else [each for each in args if isinstance(each, int)] or [2]
    return torch.tensor(ends[-1] - 1 if end == "high" else sum(ends[:-1]))
