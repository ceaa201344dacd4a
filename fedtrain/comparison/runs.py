"""What is compared of a run, read from its report."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fedtrain.audit.reading import read_report
from fedtrain.config.loading import Scalar
from fedtrain.errors import ReportError, UsageError
from fedtrain.report import Groups, Metric, Report
from fedtrain.secagg.parameters import width_of

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run as it is compared with others.

    Attributes:
        label: what it is called.
        path: where its report is; empty where that is not known.
        status: how it ended.
        mode: what is protected: ``none``, ``record`` or ``client``.
        trust: who added the noise, where the configuration says so; empty otherwise.
        noise: ``seeded`` or ``secure``; empty without privacy.
        epsilon: the largest over the clients; ``None`` without privacy.
        delta, budget: likewise.
        rounds, planned_rounds: completed, and configured.
        clients, cohort: in the federation, and in a round.
        metric: what is compared.
        value: of the metric in the last evaluation; ``None`` where it is not known.
        interval: 95 % interval of that over the test records; ``None`` where there is none.
        best, best_round: the best value by the metric that chooses the best model; ``None`` for another metric.
        baseline: what one answer for all test records reaches; ``None`` where it is not known.
        update_bytes: of the update that one client sends in one round: trained numbers, as float32, or as secure
            aggregation packs them. What encryption, keys and headers add is not in it.
        seconds: duration; ``None`` where cohorts are secret.
        groups: results of groups of the test records; ``None`` where the report has none.
        facts: what tells whether the test records are the same, by what it is called.
        config: every configuration field.
    """

    label: str
    path: str
    status: Literal["completed", "interrupted", "failed"]
    mode: str
    trust: str
    noise: str
    epsilon: float | None
    delta: float | None
    budget: float | None
    rounds: int
    planned_rounds: int
    clients: int
    cohort: int
    metric: Metric
    value: float | None
    interval: tuple[float, float] | None
    best: float | None
    best_round: int | None
    baseline: float | None
    update_bytes: int
    seconds: float | None
    groups: Groups | None = field(repr=False)
    facts: Mapping[str, object] = field(repr=False)
    config: Mapping[str, Scalar] = field(repr=False)


def compared(label: str, report: Report, *, path: str = "", metric: str | None = None) -> ComparedRun:
    """Return what is compared of a run.

    Args:
        label: what it is called.
        report: its report.
        path: where that is.
        metric: what is compared; default: what chooses the best model.

    Raises:
        UsageError: the run does not measure the metric.
    """
    evaluation, config = report.evaluation, report.config
    found = _metric(label, evaluation.metrics, metric)
    interval = evaluation.interval(found.name)
    best = evaluation.best if found == evaluation.metrics[0] else None
    secret = any(entry.cohort is None for entry in report.round_log)
    return ComparedRun(
        label=label,
        path=path,
        status=report.status,
        mode=report.privacy.mode,
        trust=str(config.get("privacy.trust", "")) if report.proof is not None else "",
        noise=report.privacy.noise or "",
        epsilon=report.privacy.epsilon,
        delta=report.privacy.delta,
        budget=report.privacy.budget,
        rounds=report.rounds,
        planned_rounds=report.planned_rounds,
        clients=report.data.clients,
        cohort=int(config.get("federation.cohort", report.data.clients)),
        metric=found,
        value=None if evaluation.final is None else evaluation.final.value(found.name),
        interval=None if interval is None else (interval.lower, interval.upper),
        best=None if best is None else best.reached,
        best_round=None if best is None else best.round,
        baseline=(evaluation.baseline or {}).get(found.name),
        update_bytes=report.model.parameters * _bytes_of_a_number(report),
        seconds=None if secret else report.seconds,
        groups=evaluation.groups,
        facts=_facts(report),
        config=config,
    )


def _metric(label: str, metrics: tuple[Metric, ...], name: str | None) -> Metric:
    found = [metric for metric in metrics if name in (None, metric.name)]
    if not found:
        measured = ", ".join(metric.name for metric in metrics) or "nothing that is a single number"
        wanted = "has nothing to compare" if name is None else f"does not measure {name}"
        raise UsageError(f"the run {label} {wanted}; it measures: {measured}")
    return found[0]


def _bytes_of_a_number(report: Report) -> int:
    for entry in report.round_log:
        if entry.secagg is not None and entry.cohort is not None:
            return width_of(len(entry.cohort), entry.secagg.bits)
    return _FLOAT_BYTES


# What determines the test records, of a configuration. Where they are drawn from all records, so does the seed.
_DECIDING = (
    "data.source",
    "data.test_path",
    "data.test_fraction",
    "data.dataset",
    "data.subset",
    "data.image_column",
    "data.label_column",
    "data.label_columns",
    "data.feature_columns",
)


def _facts(report: Report) -> dict[str, object]:
    data, config = report.data, report.config
    facts: dict[str, object] = {
        "the kind of a record": data.kind,
        "the shape of a record": data.shape,
        "the target": data.target,
        "the classes": data.classes,
        "the number of test records": data.test_records,
        **{key: config[key] for key in _DECIDING if key in config},
    }
    if not config.get("data.test_path"):
        facts["data.path"] = config.get("data.path", "")
        facts["seed, which drew the test records,"] = config.get("seed", 0)
    final = report.evaluation.final
    if final is not None and final.confusion is not None:
        facts["the number of test records of each class"] = tuple(map(sum, final.confusion))
    if (groups := report.evaluation.groups) is not None:
        sizes = tuple(f"{group.name}: {group.records}" for group in groups.groups)
        facts[f"the number of test records of each {groups.column}"] = sizes
    return facts | {
        f"the baseline of {name}, which test records decide,": value
        for name, value in (report.evaluation.baseline or {}).items()
    }


def read_runs(paths: Iterable[str | Path], *, metric: str | None = None) -> tuple[ComparedRun, ...]:
    """Read runs, each from its folder or from ``report.json``, in their order. Each is called by its folder.

    Raises:
        ReportError: a report cannot be read.
        UsageError: a run does not measure the metric.
    """
    found = []
    for given in map(Path, paths):
        file = given / "report.json" if given.is_dir() else given
        try:
            report = read_report(file.read_bytes())
        except OSError as error:
            raise ReportError(f"cannot read {file}: {error.strerror or error}") from error
        except ReportError as error:
            raise ReportError(f"{file}: {error}") from error
        name = (file.parent if file.name == "report.json" else file.with_suffix("")).resolve().name
        found.append(compared(name, report, path=str(given), metric=metric))
    # Two folders of one name are called by their paths.
    often = Counter(run.label for run in found)
    return tuple(run if often[run.label] == 1 else replace(run, label=run.path) for run in found)
