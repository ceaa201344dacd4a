"""Find where records meet: where something that is computed for a record in a batch is another than for it alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks import Batch
from fedtrain.tasks.calls import forward, losses, rows
from fedtrain.training.case import Case
from fedtrain.training.gradients import joined
from fedtrain.training.state import Still

_AUGMENTED = 5


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call of a layer: its name and kind, what it took, and what it made."""

    layer: str
    taken: list[Tensor]
    made: list[Tensor]


def refuse_meeting(case: Case, chosen: Sequence[int]) -> None:
    """Refuse a model and task that give a record in a batch another loss than alone.

    Raises:
        TaskError: says where records meet, by the layer.
    """
    found = _losses(case, case.batch(chosen))
    expected = case.losses[list(chosen)]
    if torch.allclose(found, expected, rtol=100 * case.tolerance, atol=10 * case.tolerance):
        return
    raise TaskError(
        f"the model cannot be trained privately: records meet {_where(case, chosen)}. The loss of a synthetic record "
        f"in a batch of {len(chosen)} is not its loss alone, so that records are in the gradients of other records. "
        "Keep the record in the first dimension, and compute each loss from its own row: no statistics, weights, "
        "selections or products over the batch"
    )


def refuse_mixing(case: Case, still: Still) -> None:
    """Refuse an augmentation that mixes records, with its draws held still and as they are.

    Args:
        case: what is tried.
        still: what holds draws still.

    Raises:
        TaskError: with a record replaced, and the same state of the generator, the loss of another one changes.
    """

    def losses_of(chosen: list[int], *, held: bool) -> Tensor:
        still.named = held
        batch = case.batch(chosen, torch.Generator().manual_seed(0))
        still.named = False
        return _losses(case, batch)

    every = list(range(_AUGMENTED))
    for held in (True, False):
        found = losses_of(every, held=held)
        for place in every:
            replaced = losses_of([*every[:place], len(case.ones) - 1, *every[place + 1 :]], held=held)
            others = [row for row in every if row != place]
            if torch.allclose(found[others], replaced[others], rtol=100 * case.tolerance, atol=10 * case.tolerance):
                continue
            raise TaskError(
                "the model cannot be trained privately: records meet in collate, where they are augmented: with one "
                "record replaced, the loss of another one changes. Augment each record by itself, with as many draws "
                "for each"
            )


def _losses(case: Case, batch: Batch) -> Tensor:
    try:
        with torch.no_grad():
            return losses(case.task, forward(case.task, case.model, batch), batch)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(
            f"the model cannot be trained: called on {rows(batch)} synthetic records at once, it raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _where(case: Case, chosen: Sequence[int]) -> str:
    batch, ones = case.batch(chosen), [case.ones[row] for row in chosen]
    apart = joined(ones)
    same_shapes = apart is not None and all(apart[name].shape == value.shape for name, value in batch.items())
    if apart is not None and same_shapes and not all(_close(batch[name], apart[name], case) for name in apart):
        return "in collate"
    with _calls(case.model) as together, torch.no_grad():
        outputs = forward(case.task, case.model, batch)
    singles = []
    for one in ones:
        with _calls(case.model) as alone, torch.no_grad():
            forward(case.task, case.model, one)
        singles.append(alone)
    for number, call in enumerate(together):
        if any(number >= len(alone) or alone[number].layer != call.layer for alone in singles):
            return f"before its layer {call.layer}, which is not called as for a record alone"
        for where, part in (("before", "taken"), ("in", "made")):
            for position, value in enumerate(getattr(call, part)):
                parts = [getattr(alone[number], part)[position] for alone in singles]
                if any(each.shape[1:] != value.shape[1:] or len(each) != 1 for each in parts):
                    continue
                if len(value) != len(parts) or not _close(value, torch.cat(parts), case):
                    return f"{where} its layer {call.layer}"
    with torch.no_grad():
        alone_outputs = [forward(case.task, case.model, one) for one in ones]
    if all(each.shape[1:] == outputs.shape[1:] for each in alone_outputs) and _close(
        outputs, torch.cat(alone_outputs), case
    ):
        return "in losses"
    return "in forward, after its last layer"


def _close(one: Tensor, other: Tensor, case: Case) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=100 * case.tolerance, atol=10 * case.tolerance, equal_nan=True)


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[_Call]]:
    """Note the calls of the innermost layers, in their order."""
    calls: list[_Call] = []

    def note(name: str, layer: nn.Module, taken: tuple[Any, ...], made: Any) -> None:
        outputs = made if isinstance(made, tuple) else (made,)
        calls.append(
            _Call(
                layer=f"{name or 'itself'} ({type(layer).__name__})",
                taken=[value.detach() for value in taken if isinstance(value, Tensor) and value.ndim],
                made=[value.detach() for value in outputs if isinstance(value, Tensor) and value.ndim],
            )
        )

    hooks = [
        layer.register_forward_hook(lambda layer, taken, made, name=name: note(name, layer, taken, made))
        for name, layer in model.named_modules()
        if next(layer.children(), None) is None
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
