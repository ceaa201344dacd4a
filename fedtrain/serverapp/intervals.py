"""Intervals of what a completed run measured: its last and its best evaluation are measured again, record by record."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from fedtrain.errors import RunError, TaskError
from fedtrain.progress import working
from fedtrain.report import Evaluation, Interval, Intervals, best_of
from fedtrain.report.evaluation import is_empty
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.checkpoint import Arrays, RunState
from fedtrain.serverapp.evaluation import outputs_of
from fedtrain.serverapp.preparation import Preparation
from fedtrain.tasks import load_weights
from fedtrain.tasks.intervals import LEVEL, RESAMPLES, Resampled, bootstrap
from fedtrain.tasks.user_code import telling

_log = logging.getLogger(__name__)


def intervals_of(
    preparation: Preparation,
    state: RunState,
    best: Callable[[], Arrays],
    known: Mapping[int, Sequence[Tensor]] = MappingProxyType({}),
) -> Intervals | None:
    """Return the intervals of the last and the best evaluation; ``None`` where the task gives none.

    What is measured of single records is in memory alone. An error leaves the intervals out, and is a warning: the run
    has spent what it spent. The resamples are drawn with the seed of the run, and so are the same each time.

    Args:
        preparation: what was made before the first round.
        state: where the run has ended.
        best: reads the weights of the best evaluation; called where that is not the last one, and not known.
        known: what the model returned for the test records, by round; a round that is not there is evaluated again.
    """
    last, chosen = state.evaluations[-1], best_of(state.evaluations, preparation.metrics)
    try:
        final = _intervals(preparation, lambda: preparation.released(state.model), last, known.get(last.round, ()))
        if not final:
            return None
        other = None
        if chosen is not None and chosen.round != last.round:
            (evaluation,) = (each for each in state.evaluations if each.round == chosen.round)
            other = _intervals(preparation, best, evaluation, known.get(evaluation.round, ()))
    except (TaskError, RunError) as error:
        _log.warning("the results have no intervals: %s", error)
        return None
    return Intervals(level=LEVEL, resamples=RESAMPLES, final=final, best=other)


def _intervals(
    preparation: Preparation, weights: Callable[[], Arrays], evaluation: Evaluation, known: Sequence[Tensor]
) -> dict[str, Interval]:
    with telling("metrics of the task"):
        measuring = preparation.task.metrics()
    if is_empty(evaluation) or not isinstance(measuring, Resampled):
        return {}
    model = preparation.released_model
    if not known:
        load_weights(model, {name: torch.from_numpy(np.array(value)) for name, value in weights().items()})
    parts: list[dict[str, Tensor]] = []
    with working("drawing test records for intervals"), telling("outcomes or resampled of the task's metrics"):
        for outputs, batch in outputs_of(model, preparation.task, preparation.inputs.test, known):
            parts.append(measuring.outcomes(outputs, batch))
        outcomes = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        reported = {metric.name: evaluation.value(metric.name) for metric in preparation.metrics}
        seed = derive_seed(preparation.experiment.seed, "intervals", evaluation.round)
        found, strange = bootstrap(measuring, outcomes, reported, seed=seed)
    if strange:
        _log.warning(
            "round %d: %s has no interval: made of the outcomes of single records it is another number",
            evaluation.round,
            ", ".join(strange),
        )
    return {name: Interval(lower=each.lower, upper=each.upper) for name, each in found.items()}
