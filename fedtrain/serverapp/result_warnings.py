"""What a person who looks at a run would say after it, of its rounds and results; `run_warnings` is of before it.

Each function returns sentences, and nothing where there is nothing to say. They end no run.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from fedtrain.privacy.mechanisms import guarantees_nothing
from fedtrain.report import Evaluation, Evaluations, Metric, RoundEntry, TextSample, better
from fedtrain.report.evaluation import is_empty, not_finite
from fedtrain.report.numbers import achieved, count, short
from fedtrain.report.wording import called, cause

_SHOWN = 3
_STILL = 1e-3  # a loss that moved by less, relative to itself, has hardly moved
_REASON = 300


def of_rounds(log: Sequence[RoundEntry], owners: Sequence[str]) -> list[str]:
    """Say which clients gave no result in any round that asked them, with the first reason of each.

    A round whose cohort is secret says nothing. Of several rounds, a client counts that two have asked.
    """
    asked: dict[int, int] = defaultdict(int)
    useful: set[int] = set()
    reasons: dict[int, str] = {}
    for entry in log:
        useful.update(entry.completed or ())
        for client in entry.cohort or ():
            asked[client] += 1
        for dropped in entry.dropped or ():
            reasons.setdefault(dropped.client, cause(dropped.reason))
    by_reason: dict[str, list[int]] = defaultdict(list)
    for client in sorted(reasons.keys() - useful):
        if asked[client] > 1 or len(log) == 1:
            by_reason[reasons[client]].append(client)
    order = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[1]))
    found = [
        f"{called(clients, owners)} gave no result in any round that asked: {short(reason, _REASON)}"
        for reason, clients in order[:_SHOWN]
    ]
    if others := sum(len(clients) for _, clients in order[_SHOWN:]):
        found.append(f"{count(others)} more clients gave no result in any round that asked, for other reasons")
    return found


def of_unheard(reasons: Mapping[int, str], owners: Sequence[str]) -> list[str]:
    """Say whose earlier charges are in no epsilon: clients with a ledger that did not say who they are.

    Args:
        reasons: why not, by client.
        owners: the names of the clients, if they have names.
    """
    if not reasons:
        return []
    clients = sorted(reasons)
    text = (
        f"{called(clients, owners)} spent something in another run meanwhile, and did not say who they are: it is not "
    )
    return [f"{text}in epsilon. {short(cause(reasons[clients[0]]), _REASON)}"]


def of_results(evaluations: Evaluations, classes: Sequence[str]) -> list[str]:
    """Say where the last evaluation shows that nothing was learned, by the test records alone."""
    final, metric = evaluations.final, next(iter(evaluations.metrics), None)
    if final is None or final.round == 0:
        return []
    found = []
    value = None if metric is None else final.value(metric.name)
    reached = (evaluations.baseline or {}).get(metric.name) if metric is not None else None
    if metric is not None and value is not None and reached is not None and not better(value, reached, metric):
        found.append(
            f"{metric.name} {achieved(value, metric.direction)} after round {final.round} is no better than the "
            f"baseline of {achieved(reached, metric.direction)}, which one answer for all test records "
            f"reaches{_same_answer(final, classes)}. Look at the range of the inputs and at training.learning_rate, "
            "and in a private run at the noise"
        )
    history = evaluations.history
    # A task that describes no metric, and of which nothing was ever measured, is to measure nothing.
    missing = _of_missing(history) if metric is not None or not all(map(is_empty, history)) else ""
    said = (missing, of_loss(history, evaluations.metrics), _of_loss(evaluations))
    return [*found, *filter(None, said)]


def _of_missing(history: Sequence[Evaluation]) -> str:
    """Say which evaluations measured nothing."""
    found = [evaluation.round for evaluation in history if is_empty(evaluation)]
    if not found:
        return ""
    return (
        f"nothing was measured {_when(found)}: the task's metrics failed, and the log says how, or none of what they "
        "measured is finite"
    )


def _when(rounds: Sequence[int]) -> str:
    if len(rounds) == 1:
        return f"after round {rounds[0]}"
    return f"in {len(rounds)} evaluations, the first after round {rounds[0]}"


def of_sample(sample: TextSample | None, mode: str) -> str:
    """Say that a model without privacy may have written the words of a record into the sample of a report."""
    if sample is None or not guarantees_nothing(mode):
        return ""
    return (
        "the texts in sample, which the final model wrote, may repeat the words of training records: nothing keeps a "
        "model that is trained without privacy from it. Read them before you give the report to others"
    )


def of_loss(history: Sequence[Evaluation], metrics: Sequence[Metric]) -> str:
    """Say which evaluations have no finite loss."""
    found = [(evaluation.round, names) for evaluation in history if (names := not_finite(evaluation, metrics))]
    if not found:
        return ""
    names, when = found[0][1], _when([number for number, _ in found])
    return (
        f"the {' and the '.join(names)} on the test records is not finite {when}: the training has diverged. Lower "
        "training.learning_rate or that of the server, or scale the inputs"
    )


def _same_answer(final: Evaluation, classes: Sequence[str]) -> str:
    predicted = np.sum(final.confusion, axis=0) if final.confusion else np.zeros(0)
    if np.count_nonzero(predicted) != 1 or len(predicted) != len(classes):
        return ""
    return f": the model calls each of them {short(classes[int(predicted.argmax())], 40)}"


def _of_loss(evaluations: Evaluations) -> str:
    first, last = evaluations.history[0], evaluations.history[-1]
    if first.round > 0 or first.loss is None:
        return ""
    if last.loss is None:
        return ""
    change = last.loss - first.loss
    if abs(change) <= _STILL * abs(first.loss):
        return (
            f"the loss has hardly moved, from {first.loss:.4g} before the first round to {last.loss:.4g} after round "
            f"{last.round}: training.learning_rate may be far too low, or the steps too few"
        )
    if change > 0:
        return (
            f"the loss is higher after round {last.round} than before the first, {last.loss:.4g} and {first.loss:.4g}: "
            "training.learning_rate may be too high, or the noise too much"
        )
    return ""
