"""What grows with the population, the cohort, the model and the rounds: seconds, memory of the whole tree, files.

    python benchmarks/scale.py [--checkout DIR] [case ...]

population-N   N virtual clients of 2 records, 10 a round, 3 rounds, without privacy
record-N       the same under record privacy, with seeded noise
session-N      the same, sealed and summed: a session of all clients
cohort-N       1,000 virtual clients, N a round, 3 rounds
model-N        a perceptron of N million parameters, 4 clients of 5 records, all of them a round, 3 rounds
summed-N       the same, sealed and summed
rounds-N       10 clients, N rounds
stacked-N      256 virtual clients of 32 records, all of them a round, 3 rounds of 32 steps of a perceptron of 5,898
               parameters, N clients at once (training.stacked)

Each case is one run of the command on two workers, in a process of its own. Start is the time to the end of round 1,
from the start of the process; a round is the median of the others; the processor's seconds are those of the whole tree.
Memory is the largest proportional set size of the tree that was seen (pages that processes share count once), with the
messages in /dev/shm, sampled every 50 ms, or less often where a look at a busy machine takes longer; of a model it is
also given in models of 4 bytes a parameter.

A case ends with an error where its work was not done: every round, every client of every cohort, and as many parameters
as it says; under privacy a charge for each training in the clients' own ledgers, and no folder of a client that was not
asked. Where several are stacked, the run says no reason against it, and its losses are those of the other numbers, to a
thousandth. A run of 100 rounds and more ends with an error, too, where its memory grew by more than a tenth from its
second to its last tenth.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from proof import require, require_charges

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = (
    *("population-100", "population-10000", "population-100000", "record-100", "record-1000", "record-10000"),
    *("cohort-10", "cohort-100", "cohort-1000", "rounds-500"),
)
LARGE = ("model-1", "model-10", "model-100", "summed-1", "summed-100")
STACKED = ("stacked-1", "stacked-8", "stacked-32")
MANY = 100  # rounds from which memory has to be flat
GROWTH = 1.1
FEATURES, CLASSES, PAUSE = 16, 10, 0.05
MESSAGES = Path("/dev/shm")  # noqa: S108 - where the engine has them
_ROUND = re.compile(r"round (\d+)/")

TASK = """
import torch
from torch import nn
from torch.nn import functional

from fedtrain.tasks import ClassificationMetrics, Task


class Wide(Task):
    def __init__(self, info):
        self.info = info

    def model(self):
        width = {width}
        return nn.Sequential(
            nn.Linear({features}, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, {classes})
        )

    def collate(self, records, generator):
        return {{"inputs": records.features, "targets": records.targets}}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics({classes})
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        clients: the population.
        cohort: clients of a round.
        rounds: rounds.
        settings: further values of the experiment, by their dotted keys.
        width: of the perceptron's two hidden layers; 0 for the linear model.
        records: of each client.
    """

    clients: int
    cohort: int
    rounds: int = 3
    settings: dict[str, object] = field(default_factory=dict)
    width: int = 0
    records: int = 2

    @property
    def parameters(self) -> int:
        """The parameters of the model."""
        if not self.width:
            return FEATURES * CLASSES + CLASSES
        return FEATURES * self.width + self.width**2 + 2 * self.width + self.width * CLASSES + CLASSES


def case_of(name: str) -> Case:
    """Return a case by its name."""
    kind, _, number = name.partition("-")
    size = int(number)
    record: dict[str, object] = {
        "privacy.mode": "record",
        "privacy.epsilon": 8.0,
        "privacy.delta": 1e-6,
        "privacy.sampling_rate": 0.5,
    }
    sums: dict[str, object] = {"transport.sealed": True, "transport.secagg.enabled": True}
    steps: dict[str, object] = {"training.batch_size": 8, "training.local_epochs": 8.0}
    width = round((size * 1e6) ** 0.5)
    cases = {
        "population": lambda: Case(clients=size, cohort=10),
        "record": lambda: Case(clients=size, cohort=10, settings={**record, "training.local_steps": 1}),
        "session": lambda: Case(clients=size, cohort=10, settings={**record, **sums, "training.local_steps": 1}),
        "cohort": lambda: Case(clients=1000, cohort=size),
        "model": lambda: Case(clients=4, cohort=4, width=width),
        "summed": lambda: Case(clients=4, cohort=4, width=width, settings=sums),
        "rounds": lambda: Case(clients=10, cohort=10, rounds=size),
        "stacked": lambda: Case(
            clients=256, cohort=256, width=64, records=32, settings={**steps, "training.stacked": size}
        ),
    }
    if kind not in cases:
        sys.exit(f"there is no case {kind}; there are {', '.join(cases)}, each with a number")
    return cases[kind]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", default=[*DEFAULT, *LARGE, *STACKED])
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose code is measured; by default this one's")
    arguments = parser.parse_args()
    columns = "".join(f"{name:>10}" for name in ("start, s", "round, s", "whole, s"))
    sys.stdout.write(f"{'':<18}{columns}{'processor, s':>14}{'MB':>8}{'models':>8}{'files':>8}\n")
    known: list[float] = []
    for name in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            case = case_of(name)
            sys.stdout.write(f"{name:<18}{measured(case, Path(folder), arguments.checkout.resolve())}\n")
            sys.stdout.flush()
            if name.startswith("stacked"):
                losses = losses_of(Path(folder) / "run")
                known = known or losses
                require(np.allclose(losses, known, rtol=1e-3), f"the losses are {losses}, and not {known}")


def measured(case: Case, folder: Path, checkout: Path) -> str:
    """Run a case, and return its row of the table."""
    config = folder / "scale.toml"
    config.write_text(experiment(case, folder), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{checkout}{os.pathsep}{folder}",
        "FEDTRAIN_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-c", "from fedtrain.cli import main; main()", "simulate", "--workers", "2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, "--config", str(config), "--out", str(folder / "run")],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    memory = Memory(process.pid)
    assert process.stdout is not None
    marks = [time.monotonic() - started for line in process.stdout if _ROUND.match(line)]
    status, whole = process.wait(), time.monotonic() - started
    peak = memory.end()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    require(status == 0, f"the command ended with status {status}")
    check(case, folder / "run", marks)
    if case.rounds >= MANY:
        early, late = (memory.between(started + marks[first], started + marks[last]) for first, last in tenths(case))
        require(late <= GROWTH * early, f"memory grew from {early / 1e6:.0f} MB to {late / 1e6:.0f} MB")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files = sum(path.is_file() for path in (folder / "run").rglob("*"))
    rounds = [later - earlier for earlier, later in pairwise(marks)]
    models = f"{peak / (4 * case.parameters):>8.1f}" if case.width else f"{'':>8}"
    return (
        f"{marks[0]:>10.2f}{statistics.median(rounds):>10.2f}{whole:>10.2f}{processor:>14.1f}{peak / 1e6:>8.0f}{models}"
        f"{files:>8}"
    )


def check(case: Case, run: Path, marks: list[float]) -> None:
    """Require that the work was done."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    require(report["model"]["parameters"] == case.parameters, f"{report['model']['parameters']} parameters")
    require(len(marks) == case.rounds == report["rounds"], f"{report['rounds']} rounds")
    completed = [len(entry["completed"]) for entry in report["round_log"]]
    require(completed == [case.cohort] * case.rounds, f"{completed} clients in the rounds")
    if report["privacy"]["mode"] == "record":
        require_charges(run / "clients", trainings=case.cohort * case.rounds)
        drawn = {f"client-{client:04d}" for entry in report["round_log"] for client in entry["cohort"]}
        folders = {path.name for path in (run / "clients").glob("client-*")}
        asked = case.clients if case.settings.get("transport.sealed") else len(drawn)
        require(
            folders >= drawn and len(folders) == asked, f"{len(folders)} clients have folders, and {asked} were asked"
        )
    unstacked = [warning for warning in report.get("warnings", ()) if "training.stacked" in warning]
    require(not unstacked, f"the run warns: {unstacked}")
    losses = losses_of(run)
    require(len(losses) == case.rounds + 1 and len(set(losses)) == len(losses), f"the losses are {losses}")


def losses_of(run: Path) -> list[float]:
    """Return the losses of a run."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return [evaluation["loss"] for evaluation in report["evaluation"]["history"]]


def tenths(case: Case) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last round of the second and of the last tenth, from 0."""
    tenth = case.rounds // 10
    return (tenth, 2 * tenth - 1), (case.rounds - tenth, case.rounds - 1)


def experiment(case: Case, folder: Path) -> str:
    """Return the experiment of a case, and write its records and its task."""
    generator = np.random.default_rng(0)
    labels = np.arange(100 + max(case.records * case.clients, 2 * CLASSES)) % CLASSES
    features = generator.normal(0, 0.3, (len(labels), FEATURES)).astype(np.float32)
    features[np.arange(len(labels)), labels] += 1
    np.savez(folder / "records.npz", x=features[100:], y=labels[100:])
    np.savez(folder / "test.npz", x=features[:100], y=labels[:100])
    task: dict[str, object] = {"task.name": "tabular", "task.model": "linear"}
    if case.width:
        source = TASK.format(width=case.width, features=FEATURES, classes=CLASSES)
        (folder / "wide.py").write_text(source, encoding="utf-8")
        task = {"task.name": "wide:Wide"}
    settings: dict[str, object] = {
        "name": "scale",
        "federation.clients": case.clients,
        "federation.cohort": case.cohort,
        "federation.rounds": case.rounds,
        "data.source": "npz",
        "data.path": str(folder / "records.npz"),
        "data.test_path": str(folder / "test.npz"),
        "training.batch_size": 2,
        "training.learning_rate": 0.1,
        "output.screen": "plain",
        **task,
        **case.settings,
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


class Memory:
    """Watches what a process and all that it starts hold in memory."""

    def __init__(self, root: int) -> None:
        """Begin."""
        self._root = root
        self._seen: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._folders: set[Path] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Return the largest number of bytes that was seen."""
        self._ended.set()
        self._thread.join()
        return max((held for _, held in self._seen), default=0)

    def between(self, start: float, end: float) -> int:
        """Return the largest number of bytes that was seen between two times."""
        return max((held for when, held in self._seen if start <= when <= end), default=0)

    def _watch(self) -> None:
        pause = PAUSE
        while not self._ended.wait(pause):
            begun = time.monotonic()
            family = _family(self._root)
            self._seen.append((begun, sum(map(_proportional, family)) + self._messages(family)))
            pause = max(PAUSE, 4 * (time.monotonic() - begun))  # so that it takes a fifth of a core at most

    def _messages(self, family: set[int]) -> int:
        """Return the size of the messages in shared memory: those of other runs on the machine have other folders."""
        for process in family:
            with suppress(OSError):  # it is gone meanwhile
                for link in Path(f"/proc/{process}/fd").iterdir():
                    file = link.readlink()
                    if file.parent.parent == MESSAGES and file.parent.name.startswith("fedtrain-"):
                        self._folders.add(file.parent)
        total = 0
        for folder in self._folders:
            for file in folder.glob("*"):
                with suppress(OSError):
                    total += file.stat().st_blocks * 512
        return total


def _family(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    family, before = {root}, 0
    while len(family) > before:
        before = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    return family


def _proportional(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
