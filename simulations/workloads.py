"""What each workload reaches, plain and private: one table, of the reports that are kept in results.

A row is a run. Those of the frontier are there already; the others are in `OTHERS`, and are run, audited and kept in
the same way (`frontier.reach`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from points import NO_PRIVACY, WORKLOADS, Point, Series, Workload, points

from fedtrain.comparison import ComparedRun, compared
from fedtrain.report import Report
from fedtrain.report.numbers import between, count, duration, measured, upper

# Of the frontier: one line of each workload for each trust, at these epsilons.
_EPSILONS: Final = (None, 8, 2)
_HEADS: Final = (
    "workload",
    "what is trained",
    "who is protected",
    "epsilon",
    "delta",
    "rounds",
    "metric",
    "result",
    "95 % interval",
    "bytes a client sends in a round",
    "seconds",
)
_PROTECTED: Final = {
    "none": "nobody",
    "local": "a record, by noise of each client",
    "distributed": "a record, by shared noise",
    "central": "a client, by noise of the server",
}

_WORDS = Workload(
    name="words",
    title="AG News",
    config="ag_news_weighted_words",
    seeds=(1,),
    series={
        "none": Series(
            trust="none",
            what="linear, hashed words and pairs, from nothing",
            settings={
                **NO_PRIVACY,
                "task.encoder": "simulations.weighted_words:build_with_pairs",
                "federation.rounds": 10,
                "training.optimizer": "adam",
                "training.local_steps": None,
                "training.local_epochs": 1,
                "training.batch_size": 32,
                "training.learning_rate": 0.4,
            },
        ),
        "distributed": Series(
            trust="distributed",
            what="linear, hashed words, from nothing",
            at={8: {}, 2: {"federation.rounds": 10, "training.learning_rate": 2250.0}},
        ),
    },
)

_BAG = Workload(
    name="bag",
    title="AG News",
    config="ag_news_words",
    seeds=(1,),
    series={"none": Series(trust="none", what="vectors of hashed words, from nothing")},
)

_CIFAR10_CNN = Workload(
    name="cifar10-cnn",
    title="CIFAR-10",
    config="cifar10",
    seeds=(1,),
    series={"none": Series(trust="none", what="CNN, from nothing")},
)

_LORA = Workload(
    name="lora",
    title="AG News",
    config="ag_news_lora",
    seeds=(1,),
    series={"none": Series(trust="none", what="adapters (LoRA) in MiniLM")},
)

_LORA_SHARED = Workload(
    name="lora-shared",
    title="AG News",
    config="ag_news_lora_shared",
    seeds=(1,),
    series={"distributed": Series(trust="distributed", what="adapters (LoRA) in MiniLM", at={8: {}})},
)

_SHAKESPEARE = Workload(
    name="shakespeare",
    title="Shakespeare",
    config="shakespeare",
    seeds=(1,),
    series={"none": Series(trust="none", what="LSTM on bytes, 299 roles")},
)

_SHAKESPEARE_ROLES = Workload(
    name="shakespeare-roles",
    title="Shakespeare",
    config="shakespeare_dp",
    seeds=(1,),
    series={
        "central": Series(
            trust="central",
            what="LSTM on bytes, 299 roles",
            at={8: {}, 2: {"server.parameters.server_learning_rate": 1.0}},
        ),
    },
)

OTHERS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (_CIFAR10_CNN, _BAG, _WORDS, _LORA, _LORA_SHARED, _SHAKESPEARE, _SHAKESPEARE_ROLES)
}


def chosen() -> tuple[Point, ...]:
    """Return the points of the table: the first seed of each, in the order of the workloads."""
    of_frontier = [
        point
        for workload in WORKLOADS.values()
        for point in points(workload)
        if point.way.trust != "local" and point.way.main and point.epsilon in _EPSILONS
    ]
    of_others = [point for workload in OTHERS.values() for point in points(workload)]
    first = [point for point in (*of_frontier, *of_others) if point.seed == point.workload.seeds[0]]
    titles = list(dict.fromkeys(point.workload.title for point in first))
    return tuple(
        sorted(first, key=lambda point: (titles.index(point.workload.title), point.workload.name, _rank(point)))
    )


def _rank(point: Point) -> int:
    return _EPSILONS.index(point.epsilon)


def as_markdown(reports: Sequence[tuple[Point, Report]]) -> str:
    """Return a row for each report."""
    rows = [_row(point, compared(point.name, report)) for point, report in reports]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (_HEADS, ["---"] * len(_HEADS), *rows))


def _row(point: Point, run: ComparedRun) -> tuple[str, ...]:
    form = run.metric.format
    return (
        point.workload.title,
        point.way.what,
        _PROTECTED[point.way.trust],
        "no privacy" if run.epsilon is None else upper(run.epsilon),
        "" if run.delta is None else f"{run.delta:g}",
        str(run.rounds),
        run.metric.name,
        "unknown" if run.value is None else measured(run.value, run.metric.direction, form),
        "" if run.interval is None else between(*run.interval, form),
        count(run.update_bytes),
        "secret" if run.seconds is None else duration(run.seconds),
    )
