"""Measure a model on the test records; and try a task on a few of them, before anything is trained."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedtrain.data import Split
from fedtrain.data.cache import forget_pages
from fedtrain.errors import RunError, TaskError
from fedtrain.report import Evaluation, Metric
from fedtrain.tasks import Batch, Records, Task
from fedtrain.tasks.calls import collate, forward, to_device
from fedtrain.tasks.supervised import Supervised
from fedtrain.tasks.trial import measurements, require_same_model, try_training
from fedtrain.tasks.user_code import copied, telling
from fedtrain.training.steps import fast_layout

_log = logging.getLogger(__name__)

_BATCH = 500  # test records that are evaluated at once
_NUMBERS = 1 << 26  # that a model returns for as many
# On a processor, numbers that it takes at once, and records at least. What a convolution makes of more is memory that
# the allocator gives back to the system each time, which costs as much as the convolution.
_TAKEN, _FEWEST = 1 << 18, 16
_TRIED = 8  # test records on which a task is tried


def evaluate(
    model: nn.Module, task: Task, test: Split, *, round_number: int, kept: Callable[[Tensor], None] | None = None
) -> Evaluation:
    """Measure the model on all test records.

    A measurement that is not finite is null, and a warning names it and the round.

    Args:
        model: the model.
        task: its task.
        test: the test records.
        round_number: the round after which it is measured.
        kept: called with what the model returns for some of them, as `outputs_of` gives it.

    Raises:
        TaskError: the code of the task fails.
        RunError: what the task measures is not what a report can hold.
    """
    evaluation, broken = _measured(model, task, test, round_number, kept)
    if broken:
        names = ", ".join(broken)
        _log.warning("round %d: the task measured %s as not finite; the report has null for it", round_number, names)
    return evaluation


def outputs_of(
    model: nn.Module, task: Task, test: Split, known: Sequence[Tensor] = ()
) -> Iterator[tuple[Tensor, Batch]]:
    """Give what the model returns for the test records, some at a time, and what it returned it for.

    Args:
        model: the model.
        task: its task.
        test: the test records.
        known: what it returns, where that is known; then it is not asked.

    Raises:
        TaskError: the code of the task fails.
    """
    device = next(model.parameters()).device
    model.eval()
    together = _together(task, test, device)
    with fast_layout(model):
        for number, start in enumerate(range(0, len(test), together)):
            records = _records(test, np.arange(start, min(start + together, len(test))))
            forget_pages(test.features)
            with telling("collate of the task"):
                batch = to_device(collate(task, records, None), device)
            if known:
                yield known[number].to(device), batch
                continue
            with telling("forward of the task"), torch.no_grad():
                outputs = forward(task, model, batch)
            yield outputs, batch


def _together(task: Task, test: Split, device: torch.device) -> int:
    """Return how many test records are evaluated at once."""
    most = _BATCH
    if device.type == "cpu":
        most = min(most, max(_FEWEST, _TAKEN // max(1, prod(test.features.shape[1:]))))
    return min(most, max(1, _NUMBERS // prod(task.returned))) if isinstance(task, Supervised) else most


def _measured(
    model: nn.Module, task: Task, test: Split, round_number: int, kept: Callable[[Tensor], None] | None = None
) -> tuple[Evaluation, tuple[str, ...]]:
    with telling("metrics of the task"):
        metrics = task.metrics()
    for outputs, batch in outputs_of(model, task, test):
        if kept is not None:
            kept(outputs)
        with telling("update of the task's metrics"), torch.no_grad():
            metrics.update(outputs, batch)
    with telling("compute of the task's metrics"):
        found: object = metrics.compute()
    measured, broken = measurements(found)
    try:
        return Evaluation.model_validate_json(json.dumps({"round": round_number, **measured})), broken
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ").removeprefix("Value error, ")
        raise _unreportable(round_number, why) from error
    except (TypeError, ValueError) as error:
        raise _unreportable(round_number, str(error)) from error


def _unreportable(round_number: int, why: str) -> RunError:
    return RunError(f"the task's measurements after round {round_number} cannot be reported: {why}")


def _records(test: Split, rows: np.ndarray) -> Records:
    return Records(features=torch.from_numpy(test.features[rows]), targets=torch.from_numpy(test.targets[rows]))


def try_task(
    task: Task,
    model: nn.Module,
    metrics: tuple[Metric, ...],
    test: Split,
    *,
    device: torch.device,
    measured: nn.Module | None = None,
) -> None:
    """Train and measure a copy of the model on a few test records, so that what fails does so before a round.

    The records are public to the run. Torch's generator, the model and its weights stay as they are.

    Args:
        task: the task.
        model: its model.
        metrics: what the task says of its measurements.
        test: the test records.
        device: where it is tried, as it is evaluated later.
        measured: what is evaluated in the place of the model that is trained, where that is another.

    Raises:
        TaskError: the code of the task fails, or what it returns cannot be used or reported.
    """
    require_same_model(task, model)
    rows = np.arange(max(2, min(_TRIED, len(test)))) % len(test)
    few = Split(features=test.features[rows], targets=test.targets[rows])
    copy = copied(model).to(device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        try_training(task, copy, _records(few, np.arange(len(few))))
        try:
            evaluation, _ = _measured(measured or copy, task, few, 0)
        except RunError as error:
            raise TaskError(f"{error}, on {len(few)} test records that were tried") from error
        found = evaluation.model_dump()
        for metric in metrics[:1]:
            if metric.name not in found:
                raise TaskError(
                    f"the metrics of the task describe {metric.name!r}, which is to choose the best model, and compute "
                    f"returns no measurement of that name; it returns: {', '.join(evaluation.own) or 'none'}"
                )
