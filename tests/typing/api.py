"""Uses every public name as its types allow. `make lint` checks it with mypy; it is never run."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

import fedtrain
from fedtrain import (
    BudgetRow,
    Check,
    ClientDone,
    DataInfo,
    DataStore,
    Event,
    Experiment,
    Notice,
    PlanSummary,
    Report,
    Roster,
    RoundDone,
    RoundStarted,
    Run,
    RunEnded,
    RunStarted,
    Split,
    Task,
    Verdict,
    audit_report,
    budget,
    load_run,
    plan,
    simulate,
)

version: str = fedtrain.__version__

experiment: Experiment = Experiment.load("demo.toml", {"federation.rounds": 3, "privacy": {"epsilon": 2.0}})
other: Experiment = Experiment.from_dict({"federation": {"rounds": 3}})
rounds: int = experiment.federation.rounds

summary: PlanSummary = plan(experiment)
bounds: tuple[float, float, float, float] = (summary.epsilon, summary.delta, summary.budget, summary.noise_multiplier)
text: str = str(summary)


def follow(event: Event) -> None:
    match event:
        case RunStarted():
            folder: Path = event.path
            print(folder, event.rounds, event.done, event.introduction)
        case RoundStarted():
            print(event.round, event.clients)
        case ClientDone():
            print(event.answered, event.clients)
        case RoundDone():
            epsilon: float | None = event.epsilon
            print(event.entry.seconds, event.evaluation, epsilon)
        case Notice():
            print(event.text)
        case RunEnded():
            report: Report | None = event.report
            print(event.status, event.reason, report)


def build(info: DataInfo) -> Task:
    raise NotImplementedError


def train(data: DataStore, task: Task) -> nn.Module:
    run: Run = simulate(experiment, out=Path("runs/x"), task=build, data=data, resume=True, workers=2, on_event=follow)
    simulate(experiment, out="runs/y", task=task)
    items = TensorDataset(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))
    simulate(experiment, out="runs/z", data=(items, Subset(items, [0, 1])))
    final: nn.Module = run.model()
    best: nn.Module = run.model("best")
    rows: list[dict[str, object]] = [dict(row) for row in run.metrics]
    print(best, rows, run.path / "report.html", run.report.privacy.epsilon)
    return final


def check(run: Run, roster: Roster) -> tuple[Check, ...]:
    verdict: Verdict = audit_report(run, roster=roster, ledgers=["a.jsonl", Path("b.jsonl")])
    audit_report("runs/x", roster="roster.json")
    assert verdict.holds
    return verdict.of("fails")


def spend(run: Run) -> float:
    rows: tuple[BudgetRow, ...] = budget(run, experiment=experiment)
    again: Run = load_run("runs/x", task=build)
    print(again.path)
    return max(row.left for row in rows)


def records(split: Split, output: Tensor) -> int:
    print(output)
    return len(split)
