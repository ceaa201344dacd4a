"""Results of a completed run: its last and its best evaluation are measured again, record by record.

They are the intervals of what was measured, and where a column of the test data names groups, the same of each group.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtrain.errors import RunError, TaskError
from fedtrain.memory import give_back_memory
from fedtrain.progress import working
from fedtrain.report import Evaluation, Group, Groups, Interval, Intervals, OtherGroups, best_of
from fedtrain.report.evaluation import is_empty
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.checkpoint import Arrays, RunState
from fedtrain.serverapp.evaluation import outputs_of
from fedtrain.serverapp.preparation import Preparation
from fedtrain.tasks import load_weights
from fedtrain.tasks.intervals import LEVEL, RESAMPLES, Resampled, bootstrap
from fedtrain.tasks.metrics import Rows
from fedtrain.tasks.user_code import telling

_log = logging.getLogger(__name__)

SMALLEST_GROUP: Final = 20
"""Test records that a group has at least to be shown alone."""
MOST_GROUPS: Final = 100
"""Groups that are shown alone at most: the largest."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a completed run reaches beside its evaluations.

    Attributes:
        intervals: of the last and the best evaluation; ``None`` where the task gives none.
        groups: of the last evaluation; ``None`` where no column of the test data names groups, or the task gives none.
    """

    intervals: Intervals | None = None
    groups: Groups | None = None


def results_of(
    preparation: Preparation,
    state: RunState,
    best: Callable[[], Arrays],
    known: Mapping[int, Sequence[Tensor]] = MappingProxyType({}),
) -> Results:
    """Return the intervals of the last and the best evaluation, and what the last model reaches on each group.

    What is measured of single records is in memory alone. An error leaves both out, and is a warning: the run
    has spent what it spent. The resamples are drawn with the seed of the run, and so are the same each time.

    Args:
        preparation: what was made before the first round.
        state: where the run has ended.
        best: reads the weights of the best evaluation; called where that is not the last one, and not known.
        known: what the model returned for the test records, by round; a round that is not there is evaluated again.
    """
    last, chosen = state.evaluations[-1], best_of(state.evaluations, preparation.metrics)
    try:
        outcomes = _outcomes(preparation, lambda: preparation.released(state.model), last, known.get(last.round, ()))
        if outcomes is None:
            return Results()
        final = _intervals(preparation, outcomes, last)
        groups = _groups(preparation, outcomes, last)
        other = None
        if final and chosen is not None and chosen.round != last.round:
            (evaluation,) = (each for each in state.evaluations if each.round == chosen.round)
            of_best = _outcomes(preparation, best, evaluation, known.get(evaluation.round, ()))
            other = {} if of_best is None else _intervals(preparation, of_best, evaluation)
    except (TaskError, RunError) as error:
        _log.warning("the results have no intervals: %s", error)
        return Results()
    give_back_memory()
    intervals = Intervals(level=LEVEL, resamples=RESAMPLES, final=final, best=other) if final else None
    return Results(intervals=intervals, groups=groups)


class _Outcomes(NamedTuple):
    """What measurements are made of for each test record, and the metrics that make them."""

    metrics: Resampled
    values: dict[str, Tensor]


def _outcomes(
    preparation: Preparation, weights: Callable[[], Arrays], evaluation: Evaluation, known: Sequence[Tensor]
) -> _Outcomes | None:
    """Measure an evaluation again, record by record; ``None`` where the task gives no outcomes."""
    with telling("metrics of the task"):
        measuring = preparation.task.metrics()
    if is_empty(evaluation) or not isinstance(measuring, Resampled):
        return None
    model = preparation.released_model
    if not known:
        load_weights(model, {name: torch.from_numpy(np.array(value)) for name, value in weights().items()})
    values: defaultdict[str, Rows] = defaultdict(Rows)
    with working("measuring test records for intervals"), telling("outcomes of the task's metrics"):
        for outputs, batch in outputs_of(model, preparation.task, preparation.inputs.test, known):
            for name, outcome in measuring.outcomes(outputs, batch).items():
                values[name].add(outcome)
    return _Outcomes(measuring, {name: rows.all() for name, rows in values.items()})


def _intervals(preparation: Preparation, outcomes: _Outcomes, evaluation: Evaluation) -> dict[str, Interval]:
    reported = {metric.name: evaluation.value(metric.name) for metric in preparation.metrics}
    seed = derive_seed(preparation.experiment.seed, "intervals", evaluation.round)
    with working("drawing test records for intervals"), telling("resampled of the task's metrics"):
        found, strange = bootstrap(outcomes.metrics, outcomes.values, reported, seed=seed)
    if strange:
        _log.warning(
            "round %d: %s has no interval: made of the outcomes of single records it is another number",
            evaluation.round,
            ", ".join(strange),
        )
    return {name: Interval(lower=each.lower, upper=each.upper) for name, each in found.items()}


def _groups(preparation: Preparation, outcomes: _Outcomes, evaluation: Evaluation) -> Groups | None:
    """Return what the model reaches on each group of the test records; ``None`` where no column names groups."""
    column, codes = preparation.experiment.data.group_column, preparation.inputs.test.groups
    if column is None or codes is None:
        return None
    names = preparation.inputs.groups
    sizes = np.bincount(codes, minlength=len(names))
    alone, together = shown_groups(sizes)
    with working("drawing test records of groups"):
        groups = tuple(
            Group(name=names[code], **_of_group(preparation, outcomes, evaluation, codes == code)) for code in alone
        )
        others = None
        if together:
            measured = _of_group(preparation, outcomes, evaluation, np.isin(codes, together))
            others = OtherGroups(groups=len(together), **measured)
    return Groups(column=column, smallest=SMALLEST_GROUP, groups=groups, others=others)


def shown_groups(sizes: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return which groups are shown alone, in their order, and which only together.

    Results of few records tell of single ones. So would those of all groups but a small one, together with the results
    of all records: hence what is together is no single small group.

    Args:
        sizes: test records of each group.
    """
    order = sorted(range(len(sizes)), key=lambda code: (-int(sizes[code]), code))
    alone = [code for code in order if sizes[code] >= SMALLEST_GROUP][:MOST_GROUPS]
    together = [code for code in order if code not in set(alone)]
    few = 2  # groups: one alone would be what all the others leave of all records
    while together and alone and (len(together) < few or sizes[together].sum() < SMALLEST_GROUP):
        together.append(alone.pop())
    return sorted(alone), together


def _of_group(
    preparation: Preparation, outcomes: _Outcomes, evaluation: Evaluation, among: NDArray[np.bool_]
) -> dict[str, Any]:
    rows = torch.from_numpy(np.flatnonzero(among))
    values = {name: value[rows] for name, value in outcomes.values.items()}
    with telling("resampled of the task's metrics"):
        measured = outcomes.metrics.resampled(values, torch.ones((len(rows), 1), dtype=torch.float64))
        reported = {
            metric.name: _finite(float(measured[metric.name][0]))
            for metric in preparation.metrics
            if metric.name in measured
        }
        seed = derive_seed(preparation.experiment.seed, "intervals", evaluation.round)
        found, _ = bootstrap(outcomes.metrics, values, reported, seed=seed)
    intervals = {name: Interval(lower=each.lower, upper=each.upper) for name, each in found.items()}
    return {"records": len(rows), "values": reported, "intervals": intervals}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
