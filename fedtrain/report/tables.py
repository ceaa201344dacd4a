"""What the page of a report shows, as rows of text: made from a report alone, rounded so that nothing looks kinder.

Where there are too many rows, they are put together, or the largest are shown.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from pydantic import JsonValue

from fedtrain.report.evaluation import LARGE, Evaluation, Evaluations, Metric
from fedtrain.report.meaning import population
from fedtrain.report.numbers import count, duration, error, exact, measured, percent, quoted, short, upper
from fedtrain.report.parts import RoundEntry
from fedtrain.report.privacy import Mechanism, Privacy
from fedtrain.report.schema import Report
from fedtrain.report.statements import called as called_sites
from fedtrain.report.wording import TITLES, called, title

NAMED_CLASSES = 25  # classes up to this number have a bar each
MATRIX_CLASSES = 12  # and up to this one a row and a column of a matrix
_ROWS = 40  # tables up to this length are shown whole
_FEWER = 20  # rows of a table that is too long

Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings, and what was left out of them."""

    headings: tuple[str, ...]
    rows: Rows
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The metric that chooses the best model, as the page shows it first.

    Attributes:
        name: what is measured.
        value: after the last evaluation; empty where it is not known.
        best: in the best round, if that is another and better.
        baseline: of one answer for all test records; empty where it is not known.
    """

    name: str
    value: str
    best: str
    baseline: str = ""


def headline(evaluations: Evaluations) -> Headline:
    """Return the headline; without any metric it says nothing."""
    metric, final, best = next(iter(evaluations.metrics), None), evaluations.final, evaluations.best
    if metric is None:
        return Headline(name="Evaluation", value="", best="")

    def shown(value: float) -> str:
        return measured(value, metric.direction, metric.format)

    value = None if final is None else final.value(metric.name)
    better = best is not None and best.reached != value
    baseline = (evaluations.baseline or {}).get(metric.name)
    return Headline(
        name=f"{short(title(metric.name), 40)} on test records",
        value="" if value is None else shown(value),
        best=f"best {shown(best.reached)} in round {count(best.round)}" if best is not None and better else "",
        baseline="" if baseline is None else shown(baseline),
    )


def measurements(evaluation: Evaluation, metrics: Sequence[Metric]) -> Rows:
    """Return every measurement of an evaluation that is not of single classes, by name."""
    known = (
        ("accuracy", evaluation.accuracy, percent),
        ("precision, mean over the classes", evaluation.precision, percent),
        ("recall, mean over the classes", evaluation.recall, percent),
        ("F1, mean over the classes", evaluation.f1, percent),
        ("loss", evaluation.loss, error),
        ("expected calibration error", evaluation.calibration_error, error),
        ("test records", evaluation.records, lambda number: count(int(number))),
    )
    rows = [(name, shown(value)) for name, value, shown in known if value is not None]
    described = {metric.name: metric for metric in metrics}
    for name, value in evaluation.own.items():
        metric = described.get(name)
        if metric is not None and isinstance(value, int | float):
            rows.append((short(TITLES.get(name, name), 60), measured(value, metric.direction, metric.format)))
        else:
            rows.append((short(name, 60), _own(value)))
    return rows


def per_class(evaluation: Evaluation, classes: tuple[str, ...]) -> Table | None:
    """Return what is measured of each class; of very many classes, those with the lowest F1."""
    measured = evaluation.per_class
    if measured is None:
        return None
    order = list(range(len(measured.f1)))
    note = ""
    if len(order) > _ROWS:
        order = sorted(order, key=lambda index: measured.f1[index])[:_FEWER]
        note = f"The {_FEWER} classes with the lowest F1, of {count(len(measured.f1))}; report.json has all."
    confusion = evaluation.confusion
    areas = {"AUROC": measured.auroc, "average precision": measured.average_precision}
    known = {name: values for name, values in areas.items() if values is not None}
    rows = [
        (
            short(classes[index] if index < len(classes) else str(index), 60),
            percent(measured.precision[index]),
            percent(measured.recall[index]),
            percent(measured.f1[index]),
            *("undefined" if (area := values[index]) is None else percent(area) for values in known.values()),
            count(sum(confusion[index])) if confusion is not None and index < len(confusion) else "",
        )
        for index in order
    ]
    return Table(headings=("class", "precision", "recall", "F1", *known, "records"), rows=rows, note=note)


def thresholds(evaluation: Evaluation) -> Table | None:
    """Return what thresholds on the probability of the second of two classes call."""
    if not evaluation.thresholds:
        return None
    rows = [
        (exact(row.threshold), count(row.called), percent(row.precision), percent(row.recall), percent(row.specificity))
        for row in evaluation.thresholds
    ]
    headings = ("threshold", "called", "precision", "recall", "specificity")
    return Table(headings=headings, rows=rows)


def confused(evaluation: Evaluation, classes: tuple[str, ...]) -> Table | None:
    """Return the pairs of classes that are taken for one another most often, where a picture shows no single one."""
    if evaluation.confusion is None or len(evaluation.confusion) <= MATRIX_CLASSES:
        return None
    matrix = np.array(evaluation.confusion, dtype=np.int64)
    records = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    wrong = int(np.count_nonzero(matrix))
    shown = min(_FEWER, wrong)
    # Of equal counts, the first in the order of the classes.
    order = np.argsort(-matrix, axis=None, kind="stable")[:shown]
    rows = [
        (
            short(classes[true], 60),
            short(classes[called], 60),
            count(int(matrix[true, called])),
            percent(float(matrix[true, called] / records[true])),
        )
        for true, called in zip(*np.unravel_index(order, matrix.shape), strict=True)
    ]
    where = "the run folder has the whole matrix" if len(matrix) > LARGE else "report.json has the whole matrix"
    note = f"The {shown} most frequent of {count(wrong)} pairs; {where}." if wrong > shown else ""
    return Table(headings=("true class", "called", "records", "of the true class"), rows=rows, note=note)


def mechanism(shown: Mechanism, privacy: Privacy) -> Rows:
    """Return the mechanism and its accounting, with numbers exactly as they were used."""
    rows = [
        ("mechanism", shown.name),
        ("protected unit", f"one {privacy.unit}"),
        ("neighbouring data sets", privacy.neighbouring or ""),
        ("sampling rate", exact(shown.sampling_rate)),
        ("noise multiplier", exact(shown.noise_multiplier)),
        ("clipping norm", exact(shown.clip_norm) + (", adaptive" if shown.adaptive_clipping else "")),
        ("steps in a round", count(shown.steps_per_round)),
        ("rounds of a client, at most", count(shown.rounds)),
        ("divisor of the sum", exact(shown.divisor)),
        population(privacy),
        ("plan, SHA-256", shown.plan_digest),
        ("random source", privacy.random_source),
        ("tuning before this run, as declared", quoted(short(privacy.tuning, 1000))),
    ]
    adaptive, shares = shown.adaptive_clipping, shown.shares
    if shares is not None:
        rows[5:5] = [
            ("shares of the noise", f"{shares.members}, one of each member of a cohort"),
            (
                "shares that are counted",
                f"{shares.honest}: {shares.threshold} survivors less {shares.colluders} that may collude",
            ),
            ("grid steps of the clipping norm", count(shares.steps)),
            ("bound on the L2 norm after rounding, in grid steps", count(shares.l2)),
            ("standard deviation of a share, in grid steps", count(round(math.sqrt(shares.share)))),
        ]
    if adaptive is not None:
        rows[6:6] = [
            ("clipping quantile", exact(adaptive.quantile)),
            ("clipping learning rate", exact(adaptive.learning_rate)),
            ("noise on the count", exact(adaptive.count_noise)),
            ("noise multiplier of the sum", exact(adaptive.value_noise_multiplier)),
        ]
    correlation = shown.correlation
    if correlation is not None:
        rows[6:6] = [
            ("noise over the rounds", f"correlated over {count(correlation.bands)} rounds"),
            ("rounds between participations, at least", count(correlation.separation)),
            ("noise multiplier of the draws", f"{correlation.value_noise_multiplier:.6g}"),
            ("error of the model, of that with independent noise", f"{correlation.error:.3f}"),
        ]
    return rows


def sampling(privacy: Privacy) -> str:
    """Return in one sentence how units are chosen, and whether epsilon makes use of it."""
    chosen = privacy.sampling
    if chosen is None:
        return ""
    use = "Epsilon relies on this draw." if chosen.amplification else "Epsilon does not rely on a draw."
    return f"{chosen.reason} {use}"


def adversaries(privacy: Privacy) -> Table:
    """Return who may want to learn about what is protected, and what bounds it."""
    rows = [(row.who, row.sees, "yes" if row.bounded else "no", row.by) for row in privacy.adversaries]
    return Table(headings=("who", "what they see", "bounded", "by what"), rows=rows)


def accountants(privacy: Privacy) -> Table:
    """Return what computed the largest epsilon, and what each found."""
    rows = [
        (entry.role, f"{entry.name} ({entry.version})", upper(entry.epsilon), entry.note or "")
        for entry in privacy.accountants
    ]
    return Table(headings=("role", "accountant", "epsilon", "note"), rows=rows)


def budgets(privacy: Privacy) -> dict[str, float]:
    """Return the budgets that hold for all clients, by what they are called."""
    own = {client.budget for client in privacy.clients}
    earlier = any(client.epsilon != client.run_epsilon for client in privacy.clients)
    lines = {"budget of this run" if earlier else "budget": privacy.budget}
    if len(own) == 1:
        lines["clients' own budget"] = own.pop()
    return {label: budget for label, budget in lines.items() if budget is not None}


def clients(report: Report) -> Table | None:
    """Return who the clients of a simulation are, where they have names; of very many, those with most records."""
    owners, histogram = report.data.owners, report.data.histogram
    if owners is None:
        return None
    counts = {"records": [sum(row) for row in histogram]} if histogram is not None else {}
    order, note = list(range(len(owners))), ""
    if len(order) > _ROWS:
        order = sorted(order, key=lambda client: [-column[client] for column in counts.values()])[:_FEWER]
        note = f"{_FEWER} of {count(len(owners))} clients; report.json has all."
    rows = [
        (str(client), short(owners[client], 60), *(count(column[client]) for column in counts.values()))
        for client in order
    ]
    return Table(headings=("client", "owner", *counts), rows=rows, note=note)


def spending(report: Report) -> Table:
    """Return what each client spent, by the name that it allows; of very many clients, those that spent most."""
    privacy, names = report.privacy, called_sites(report)
    clients = privacy.clients
    note = ""
    if len(clients) > _ROWS:
        middle = median(client.epsilon for client in clients)
        clients = tuple(sorted(clients, key=lambda client: -client.epsilon)[:_FEWER])
        note = (
            f"The {_FEWER} clients that spent most, of {count(len(privacy.clients))}; "
            f"the median client spent {upper(middle)}. report.json has all."
        )
    columns = {
        "client": [str(client.client) for client in clients],
        "name": [names.get(client.client, "allows no name") for client in clients],
        "epsilon": [upper(client.epsilon) for client in clients],
        "in this run": [upper(client.run_epsilon) for client in clients],
        "own budget": [exact(client.budget) if client.budget is not None else "not known" for client in clients],
        "rounds": [count(len(client.rounds)) for client in clients],
        "unanswered": [count(len(client.unanswered)) for client in clients],
        "steps": [count(client.steps) for client in clients],
        "ledger entries": [count(client.entries) for client in clients],
    }
    if all(client.budget is None for client in clients):
        del columns["own budget"]
    if not names:
        del columns["name"]
    return Table(headings=tuple(columns), rows=list(zip(*columns.values(), strict=True)), note=note)


def rounds(report: Report) -> Table:
    """Return the rounds, or as many blocks of rounds as fit a page."""
    log = report.round_log
    size = 1 if len(log) <= _ROWS else math.ceil(len(log) / _FEWER)
    blocks = [log[start : start + size] for start in range(0, len(log), size)]
    note = f"Each row sums up to {size} rounds; report.json has each round." if size > 1 else ""
    headings = ("rounds" if size > 1 else "round", "asked", "completed", "dropped", "learning rate", "duration")
    return Table(headings=headings, rows=[_block(block) for block in blocks], note=note)


def drops(report: Report) -> Table:
    """Return why results were not used, the most frequent reason first."""
    by_reason: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for entry in report.round_log:
        for dropped in entry.dropped or ():
            by_reason[dropped.reason].append((entry.round, dropped.client))
    order = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[1]))
    rows = [
        (
            short(reason, 300),
            count(len(where)),
            _some({number for number, _ in where}),
            called(sorted({client for _, client in where}), report.data.owners or ()).partition(" ")[2],
        )
        for reason, where in order[:_FEWER]
    ]
    note = (
        f"The {_FEWER} most frequent of {count(len(order))} reasons; report.json has all."
        if len(order) > _FEWER
        else ""
    )
    return Table(headings=("reason", "results", "rounds", "clients"), rows=rows, note=note)


def configuration(report: Report) -> list[tuple[str, Rows]]:
    """Return the configuration by section."""
    sections: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key, value in report.config.items():
        section, _, name = key.rpartition(".")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        sections[section or "experiment"].append((name, text))
    return list(sections.items())


def _block(block: tuple[RoundEntry, ...]) -> tuple[str, ...]:
    first, last = block[0], block[-1]
    rates = sorted({entry.learning_rate for entry in block})
    return (
        str(first.round) if len(block) == 1 else f"{first.round} to {last.round}",
        _total(entry.cohort for entry in block),
        _total(entry.completed for entry in block),
        _total(entry.dropped for entry in block),
        f"{rates[0]:.4g}" if len(rates) == 1 else f"{rates[0]:.4g} to {rates[-1]:.4g}",
        "secret" if first.cohort is None else duration(sum(entry.seconds for entry in block)),
    )


def _total(lists: Iterable[tuple[object, ...] | None]) -> str:
    known = [entries for entries in lists if entries is not None]
    return count(sum(map(len, known))) if known else "secret"


def _some(numbers: set[int]) -> str:
    shown = [str(number) for number in sorted(numbers)[:8]]
    left = len(numbers) - len(shown)
    return ", ".join(shown) + (f" and {count(left)} more" if left else "")


def _own(value: JsonValue) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, int | float):
        return exact(value)
    text = str(value)
    return text if len(text) <= 80 else "in report.json"  # noqa: PLR2004 - a line
