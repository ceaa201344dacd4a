"""A model and task on records that nobody has, drawn from the public schema, and what each of these gives alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedtrain.data.types import Columns, DataInfo, Encoded, Image, Sound, Text, Tokens, stored_shape
from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, Records, Task
from fedtrain.tasks.calls import collate, to_device
from fedtrain.tasks.user_code import copied
from fedtrain.training.gradients import Gradients, by_loop, collate_alone, rows_of
from fedtrain.training.state import Kept, Weights, kept

_PIXELS = 256
_QUIET = 0.1  # the deviation of samples
_LETTERS = (32, 127)  # of ASCII
_COMMON = 6
# Records of several lengths take more of a model's branches than records of one.
_SCALES = (1.0, 3.0, 0.3, 1.0, 0.1)

_COLUMNS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": lambda shape, draw: torch.randn(shape, generator=draw) * _scales(shape),
    "positive": lambda shape, draw: torch.rand(shape, generator=draw) * 0.9 + 0.1,
    # Numbers that stand for categories or tokens: every vocabulary has a 0 and a 1.
    "whole": lambda shape, draw: _starting_with_one(torch.randint(2, shape, generator=draw).to(torch.float32)),
}
VALUES: Final = tuple(_COLUMNS)
"""What the numbers of a table are tried as, in this order: a model may take the logarithm of them, or look them up."""


def synthetic(info: DataInfo, count: int, *, values: str) -> Records:
    """Return records of a schema, the same at every call.

    Args:
        info: the schema.
        count: how many.
        values: one of `VALUES`; it decides nothing where features are pixels, samples, texts or tokens.
    """
    draw = torch.Generator().manual_seed(0)
    shape = (count, *info.shape)
    match info.features:
        case Image():
            features = torch.randint(_PIXELS, shape, generator=draw).to(torch.uint8)
        case Sound():
            features = _QUIET * torch.randn(shape, generator=draw) * _scales(shape)
        case Columns() | Encoded():
            features = _COLUMNS[values](shape, draw)
        case Text():
            letters = torch.randint(*_LETTERS, shape, generator=draw).to(torch.uint8)
            features = letters * _filled(shape, draw)
        case Tokens(vocabulary=vocabulary):
            anything = torch.randint(1, vocabulary, shape, generator=draw)
            # Some occur several times in a record, and in several records.
            common = torch.randint(1, min(vocabulary, _COMMON), shape, generator=draw)
            chosen = torch.where(torch.rand(shape, generator=draw) < 0.5, common, anything)  # noqa: PLR2004 -- a half
            features = chosen.to(torch.int32) * _filled(shape, draw)
    match info.target.kind:
        case "class":
            targets = torch.randint(max(1, len(info.classes)), (count,), generator=draw)
        case "number":
            targets = torch.randn(count, generator=draw)
        case "labels":
            targets = torch.randint(2, (count, len(info.classes)), generator=draw).to(torch.uint8)
        case "text":
            targets = torch.zeros(stored_shape(info.target, count), dtype=torch.uint8)
    return Records(features=features, targets=targets)


def _filled(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Return where a sequence of each record has something; each has one item or more."""
    lengths = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=draw)
    return torch.arange(shape[1]) < lengths


def _scales(shape: tuple[int, ...]) -> Tensor:
    scales = torch.tensor(_SCALES).repeat(-(-shape[0] // len(_SCALES)))[: shape[0]]
    return scales.reshape(-1, *(1 for _ in shape[1:]))


def _starting_with_one(values: Tensor) -> Tensor:
    if values[0].numel():
        values.flatten(1)[:, 0] = 1
    return values


TOLERANCE: Final = {torch.float64: 1e-7, torch.float32: 1e-3}
"""What rounding may make of a gradient in another order, over its norm."""

_SIZES = (1, 2, 5)
_LEAST = 7
_MANY = 65
# Relative to a parameter's deviation, and absolute.
_MOVED = 0.05


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a preflight works with.

    Attributes:
        model: a copy in training mode, in double precision if it can be, its weights moved a little.
        task: its task.
        records: K records, and one more to put in the place of one. K is no dimension of anything in the model.
        ones: each of them as a batch of one row.
        losses: shape (K + 1,).
        gradients: of K + 1 records.
        before: what another copy kept in attributes after one other record.
        precision: that of the model and of what it takes; ``None`` where it is as the task makes it.
    """

    model: nn.Module
    task: Task
    records: Records
    ones: Sequence[Batch]
    losses: Tensor
    gradients: Gradients
    before: Kept
    precision: torch.dtype | None

    @property
    def tolerance(self) -> float:
        """What rounding may make of a loss or a gradient."""
        return TOLERANCE[self.losses.dtype] if self.losses.dtype in TOLERANCE else TOLERANCE[torch.float32]

    def batch(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        """Return some of the records as a batch."""
        return prepared(
            collate(self.task, self.records.take(torch.tensor(rows)), generator), self.model, self.precision
        )

    def batches(self) -> Iterator[list[int]]:
        """Yield the rows of each batch to try: all, permuted, one replaced, one removed, and fewer."""
        last = len(self.ones) - 1
        every = list(range(last))
        yield every
        yield [*every[2:], *every[1::-1]]
        yield [every[0], last, *every[2:]]
        yield every[1:]
        yield from (every[-size:] for size in _SIZES)

    def many(self) -> list[int]:
        """Return the rows of a batch of the size that batches have in training, where records repeat."""
        return [row % len(self.ones) for row in range(_MANY)]

    def differs(self, gradients: Gradients, rows: Sequence[int]) -> str:
        """Return the name of a parameter whose gradients of rows are not those of the records alone, or nothing."""
        expected = [gradient[list(rows)] for gradient in self.gradients]
        norms = torch.stack([rows_of(gradient).norm(dim=1) for gradient in expected]).norm(dim=0)
        for name, found, right in zip(self.names(), gradients, expected, strict=True):
            off = rows_of(found - right).norm(dim=1)
            # Written so that a NaN differs.
            if not bool((off <= self.tolerance * norms).all()):
                return name
        return ""

    def untouched(self) -> str:
        """Return the name of a parameter of which no record has a gradient, or nothing."""
        for name, gradient in zip(self.names(), self.gradients, strict=True):
            if not gradient.any():
                return name
        return ""

    def names(self) -> list[str]:
        """Return the names of the trainable parameters, in the order of the gradients."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def in_half(model: nn.Module) -> bool:
    """Return whether a parameter of the model is in half precision."""
    return any(parameter.dtype.itemsize < torch.float32.itemsize for parameter in model.parameters())


def prepared(batch: Batch, model: nn.Module, precision: torch.dtype | None) -> Batch:
    """Return a batch on the model's device, and in a precision if there is one."""
    batch = to_device(batch, next(model.parameters()).device)
    if precision is None:
        return batch
    return {name: value.to(precision) if value.is_floating_point() else value for name, value in batch.items()}


def open_case(model: nn.Module, task: Task, info: DataInfo) -> Case:
    """Find values that the model takes, in the highest precision that it can, and compute each record alone.

    Raises:
        TaskError: the model cannot be called on one record, or writes parameters or buffers.
    """
    case, failures = try_case(model, task, info)
    if case is not None:
        return case
    # That of the model as it is, on the first values.
    failure = failures[min(3, len(failures) - 1)] if failures else None
    if isinstance(failure, TaskError):
        raise failure
    why = "its loss or gradients are not finite"
    if failure is not None:
        why = f"it raised {type(failure).__name__}: {failure}"
    raise TaskError(
        "the model cannot be trained privately: the gradient of a record is that of its loss alone, and called on one "
        f"synthetic record (random numbers in the schema of the data set) {why}"
    ) from failure  # a client passes on nothing that quotes the code of a task


def try_case(model: nn.Module, task: Task, info: DataInfo) -> tuple[Case | None, list[Exception]]:
    """Return what `open_case` returns, or ``None`` and what was raised.

    Raises:
        TaskError: the model writes parameters or buffers.
    """
    failures: list[Exception] = []
    for values in VALUES if info.kind in {"table", "encoded"} else VALUES[:1]:
        for moved in (True, False):
            for precision in (torch.float64, torch.float32 if in_half(model) else None):
                original = _copy(model, precision, moved=moved)
                try:
                    case = _opened(original, task, info, values=values, precision=precision)
                except _WrittenError as error:
                    raise error.refusal from None
                except Exception as error:  # noqa: BLE001 -- whatever the user's code raises
                    failures.append(error)
                    continue
                if case.losses.isfinite().all() and all(gradient.isfinite().all() for gradient in case.gradients):
                    return case, failures
    return None, failures


class _WrittenError(Exception):
    def __init__(self, refusal: TaskError) -> None:
        super().__init__()
        self.refusal = refusal


def moved_copy(model: nn.Module) -> nn.Module:
    """Return a copy in training mode, the trained weights of which are moved a little."""
    return _copy(model, None, moved=True)


def _copy(model: nn.Module, precision: torch.dtype | None, *, moved: bool) -> nn.Module:
    copy = copied(model).train()
    if precision is not None:
        copy = copy.to(precision)
    with torch.no_grad():
        for parameter in copy.parameters() if moved else ():
            if parameter.requires_grad and parameter.is_floating_point():
                spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
                parameter.add_(_MOVED * (spread + _MOVED) * _noise(parameter))
    return copy


def _noise(like: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(like.numel())
    return torch.randn(like.shape, generator=draw, dtype=torch.float64).to(like)


def _opened(original: nn.Module, task: Task, info: DataInfo, *, values: str, precision: torch.dtype | None) -> Case:
    def alone(count: int, model: nn.Module) -> list[Batch]:
        ones = collate_alone(task, synthetic(info, count, values=values), None)
        return [prepared(one, model, precision) for one in ones]

    # What a first call keeps may depend on its record, so each of two copies begins with another one.
    first, model = deepcopy(original), deepcopy(original)
    pair, weights = alone(2, first), Weights(first)
    with _sizes(first) as taken:
        by_loop(task, first, pair[:1])
    _refuse_written(weights)
    before = kept(first, task)
    by_loop(task, model, pair[1:])
    taken |= {size for parameter in model.state_dict().values() for size in parameter.shape}
    taken |= {size for value in pair[0].values() for size in value.shape} | {*info.shape, *_SIZES}
    count = next(size for size in range(_LEAST, _LEAST + len(taken) + 1) if size not in taken)
    ones, weights = alone(count + 1, model), Weights(model)
    losses, gradients = by_loop(task, model, ones)
    _refuse_written(weights)
    records = synthetic(info, count + 1, values=values)
    return Case(
        model=model,
        task=task,
        records=records,
        ones=ones,
        losses=losses,
        gradients=gradients,
        before=before,
        precision=precision,
    )


@contextmanager
def _sizes(model: nn.Module) -> Iterator[set[int]]:
    """Gather the dimensions of whatever layers take and return."""
    found: set[int] = set()

    def note(layer: nn.Module, taken: tuple[Any, ...], made: Any) -> None:
        del layer
        for value in (*taken, *(made if isinstance(made, tuple) else (made,))):
            found.update(value.shape if isinstance(value, Tensor) else ())

    hooks = [layer.register_forward_hook(note) for layer in model.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_written(weights: Weights) -> None:
    try:
        weights.refuse_written()
    except TaskError as error:
        raise _WrittenError(error) from None
