"""Try on records that nobody has whether a model gives each record a gradient of its own, before a budget is touched.

Epsilon is about clipped gradients of single records. The definition is that of `fedtrain.training.gradients`: the
gradient of the loss of the record alone. On synthetic records of the schema, in batches of several sizes, permuted,
with a record replaced and with one removed, the preflight compares

- the losses of records in a batch with those of each alone, through the whole of ``collate``, ``forward`` and
  ``losses``: where they differ, records meet, and the model is refused;
- what parameters, buffers and attributes were before and after: a forward pass that writes what is read again, or
  released, is refused;
- the gradients, the norms and the weighted sums of the fastest way, which is book-keeping, with those of each record
  alone: where they differ, or cannot be had, Opacus' hooks are tried likewise, and then the model is trained by
  ``torch.func.vmap`` over single records, or by a loop over them, which are right by construction.

Weights are moved a little first, so that a layer that starts with zeros hides nothing, and everything is computed in
double precision where the model can be. What torch draws at random is held still: in the middle of its range, and for
a model that draws also near its ends, since a model may mix records for some draws only.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import nn

from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks import Task, refuse_batch_statistics
from fedtrain.tasks.calls import forward, losses, refuse_complex, refuse_coupled_losses
from fedtrain.training.bookkeeping import Book, bookkeeping
from fedtrain.training.case import Case, in_half, open_case, try_case
from fedtrain.training.contributions import norms_of
from fedtrain.training.gradients import NotRecordsError, by_loop, by_vmap, trainable, whole_precision
from fedtrain.training.hooks import Hooked, hooked
from fedtrain.training.meeting import refuse_meeting, refuse_mixing
from fedtrain.training.perrecord import PerRecord
from fedtrain.training.snapshot import made_of
from fedtrain.training.state import Level, Marks, Still, Weights, refuse_read

Way = Literal["book-keeping", "hooks", "vmap", "loop"]

_REMEMBERED: Final = 8
_SHOWN: Final = 200
_CALLS: Final = 3
_OTHERS: Final[tuple[Level, ...]] = ("zeros", "low", "high", "low and zeros", "high and zeros")


@dataclass(frozen=True, kw_only=True)
class PreflightResult:
    """How the gradients of single records of a model can be had, as a preflight found.

    Attributes:
        way: book-keeping, Opacus' hooks, ``torch.func.vmap`` over records, or a loop over records.
        reason: why it is not book-keeping; empty where it is.
        draws: whether the model draws at random while it trains, as dropout does.
        precision: what a model in half precision is compared in; ``None`` for the precision that it has.
    """

    way: Way
    reason: str = ""
    draws: bool = False
    precision: torch.dtype | None = None

    @property
    def notice(self) -> str:
        """What a person should know of it, in words; empty where it is book-keeping."""
        if self.way == "book-keeping":
            return ""
        why = " ".join(self.reason.split())[:_SHOWN]
        return (
            f"the gradients of single records are computed {_HOW[self.way]}, which is slower than book-keeping: {why}"
        )


_HOW: Final = {"hooks": "by Opacus' hooks", "vmap": "by vmap over records", "loop": "one record after another"}

Watching = Callable[[nn.Module], AbstractContextManager[Book | Hooked]]

WATCHING: Final[dict[Way, Watching]] = {"book-keeping": bookkeeping, "hooks": hooked}
"""The ways that watch the layers of a model while it computes a batch, the fastest first."""

_results: deque[tuple[Task, Marks, DataInfo, object, PreflightResult]] = deque(maxlen=_REMEMBERED)


def preflight(model: nn.Module, task: Task, info: DataInfo) -> PreflightResult:
    """Return how the gradients of single records of the model can be had; the model stays as it is.

    A process remembers what it found for the last tasks and models. A task that changed is tried again.

    Args:
        model: as it is trained. What it is made of matters, its attributes and hooks included, and not its weights.
        task: its task.
        info: the schema of the records.

    Raises:
        TaskError: records meet in the model or the task, the forward pass writes what it must not, or the model cannot
            be called on one record alone. It names the layer, and says what to write instead.
    """
    parts, marks = made_of(model), Marks.of(task)
    for known, before, schema, earlier, result in _results:
        if known is task and before.same(marks) and schema == info and earlier == parts:
            return result
    with _undisturbed(model), whole_precision():
        result = _preflight(model, task, info)
    _results.append((task, Marks.of(task), info, parts, result))
    return result


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave torch's generators as they are."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(0)
        yield


def _preflight(model: nn.Module, task: Task, info: DataInfo) -> PreflightResult:
    refuse_batch_statistics(model)
    refuse_complex(model)
    _refuse_compiled(model)
    _refuse_rewriting(model)
    if not trainable(model):
        raise TaskError("the model cannot be trained privately: it has no trainable parameter")
    with Still() as still:
        case = open_case(model, task, info)
        _refuse_foreign_draws(case)
        _refuse(case, still)
    others = _at_other_draws(model, task, info, still.others)
    precision, reason = case.precision if in_half(model) else None, ""
    for way, watching in WATCHING.items():
        with Still():
            why = _why_not(case, watching)
            if not why and (untouched := case.untouched()):
                # Nothing would have been compared.
                why = (
                    f"no synthetic record has a gradient of {untouched}; if no loss ever depends on it, it learns "
                    "nothing and gets noise: leave it out of the model, or freeze it"
                )
        for level, other in () if why else others.items():
            with Still(level):
                why = why or _why_not(other, watching)
        why = why or _why_fails(case, watching)
        if not why:
            return PreflightResult(way=way, reason=reason, draws=still.drew, precision=precision)
        reason = reason or why
    return PreflightResult(way="vmap" if _maps(case) else "loop", reason=reason, draws=still.drew, precision=precision)


def _refuse(case: Case, still: Still) -> None:
    _refuse_reading(case)
    weights = Weights(case.model)
    for rows in (*case.batches(), case.many()):
        refuse_meeting(case, rows)
    refuse_mixing(case, still)
    weights.refuse_written()
    _refuse_reading(case)


def _at_other_draws(model: nn.Module, task: Task, info: DataInfo, levels: set[Level]) -> dict[Level, Case]:
    """Return what records are alone with other draws, such as those with which a model mixes records now and then.

    A model whose losses are not finite with such draws, or that cannot be called, has no case there: all of a record
    may have been dropped.
    """
    cases: dict[Level, Case] = {}
    for level in _OTHERS:
        if level not in levels:
            continue
        with Still(level) as still:
            case, _ = try_case(model, task, info)
            if case is not None:
                _refuse(case, still)
                cases[level] = case
        levels = levels | still.others
    return cases


def _refuse_foreign_draws(case: Case) -> None:
    """Refuse draws by the generators of Python and NumPy, which cannot be held still: some may mix records."""
    for _ in range(_CALLS):  # another thread may draw now and then
        before = _generators()
        batch = case.batch([0], torch.Generator().manual_seed(0))
        losses(case.task, forward(case.task, case.model, batch), batch)
        after = _generators()
        if after == before:
            return
    drawn = " and ".join(name for name, state in after.items() if state != before[name])
    raise TaskError(
        f"the model cannot be trained privately: the task or its model draws by {drawn}, which cannot be held still to "
        "see whether records meet; draw by torch, for example with torch.rand, and in collate from the generator that "
        "it is given"
    )


def _generators() -> dict[str, object]:
    # To see whether they are used.
    return {"Python's random": random.getstate(), "numpy.random": repr(np.random.get_state(legacy=False))}  # noqa: NPY002


def _refuse_reading(case: Case) -> None:
    refuse_read(case.before, case.model, case.task, lambda: by_loop(case.task, case.model, case.ones[:1])[0])


def _refuse_compiled(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise TaskError(
                f"the model cannot be trained privately: {f'its layer {name} is' if name else 'it is'} compiled by "
                "torch.jit, which takes no hooks, and keeps what a forward pass writes where nobody can see whether it "
                "is read again; leave torch.jit.script or torch.jit.trace out, and use the module that was compiled"
            )


def _refuse_rewriting(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        # As torch.Tensor.register_hook sets it.
        if parameter._backward_hooks:  # noqa: SLF001 -- torch has no other
            raise TaskError(
                f"the model cannot be trained privately: its parameter {name} has a hook on its gradient, which is "
                "that of a whole batch; remove the hook, and scale or clip in the loss or with privacy.clip_norm"
            )
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.max_norm is not None:
            raise TaskError(
                f"the model cannot be trained privately: its layer {name or 'itself'}, {type(layer).__name__} with "
                "max_norm, rewrites the rows of the tokens that occur, without clipping and noise; leave max_norm out, "
                "and scale what the layer returns, for example with functional.normalize"
            )


def _why_not(case: Case, watching: Watching) -> str:
    """Return why a way's gradients are not those of records alone, or nothing."""
    try:
        with watching(case.model) as run:
            for rows in case.batches():
                batch = case.batch(rows)
                losses_found, found = run(case.task, batch)
                assert run.outputs is not None
                # As in the first step of a round: losses may go by what is not in the outputs.
                refuse_coupled_losses(case.task, run.outputs, batch, losses_found)
                if why := _differs(case, found, rows):
                    return why
    except Exception as error:  # noqa: BLE001 -- of layers that a way does not know; another way is right without it
        return _described(error)
    return ""


def _differs(case: Case, found: PerRecord, rows: Sequence[int]) -> str:
    """Return what of the gradients of a batch is not that of each record alone, or nothing."""
    if name := case.differs(found.rows(slice(None)), rows):
        return f"the gradient of {name} is not that of each record alone"
    # What is clipped and released is made of norms and of a weighted sum, which are computed without the gradients.
    gradients = [gradient[list(rows)].double() for gradient in case.gradients]
    lengths = torch.stack([norms_of(gradient) for gradient in gradients]).norm(dim=0)
    if not bool(((found.squares().sqrt() - lengths).abs() <= case.tolerance * lengths).all()):
        return "the norm of a record's gradient is not that of the record alone"
    factors = torch.linspace(0.5, 1, len(rows), dtype=torch.float64)
    for name, total, gradient in zip(case.names(), found.totals(factors), gradients, strict=True):
        expected = torch.einsum("i,i...", factors.to(gradient), gradient)
        if not bool((total - expected).norm() <= case.tolerance * lengths.sum()):
            return f"the sum of the gradients of {name} is not that of the records alone"
    return ""


def _why_fails(case: Case, watching: Watching) -> str:
    """Return why a way fails where the model draws at random, which a layer that is run again may not."""
    try:
        with watching(case.model) as run:
            run(case.task, case.batch(next(case.batches())))
    except Exception as error:  # noqa: BLE001 -- as above
        return _described(error)
    return ""


def _maps(case: Case) -> bool:
    """Return whether vmap gives the gradients of records alone, and can draw at random."""
    try:
        with Still():
            _, gradients = by_vmap(case.task, case.model, case.ones)
        by_vmap(case.task, case.model, case.ones)
    except Exception:  # noqa: BLE001 -- what cannot be mapped is a loop
        return False
    return not case.differs(gradients, range(len(case.ones)))


def _described(error: Exception) -> str:
    return error.what if isinstance(error, NotRecordsError) else f"{type(error).__name__}: {error}"
