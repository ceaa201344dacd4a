"""Compare correlated with independent noise at equal epsilon: the next letter in Shakespeare, each role a client.

    python benchmarks/banded.py [--rounds N] [--cohort N] [--epsilon E] [--clips C ...] [--seeds S ...]

299 roles are the clients, and each counts as a whole. A model sees the last letters and says which comes next: one
linear layer, so that what noise does to it is seen and nothing else. Cohorts are known, and under either noise a client
takes part equally often at most, at the same epsilon, which the report of each run gives. Beside them are a run without
privacy, and one with secret Poisson cohorts, which takes a server and a network that keep them secret.

Every run is a whole one of fedtrain, with ledgers and signatures, and is audited: a check that fails ends the program.
Runs are left in the folder of --out; one that is there is not repeated, and one that was stopped goes on. All clipping
norms are tried under all noises. Choosing among them by the test loss, as a reader of the table does, is no private
tuning.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedtrain import (
    ClassTarget,
    Columns,
    DataInfo,
    DataStore,
    Experiment,
    Split,
    audit_report,
    load_run,
    simulate,
)
from fedtrain.tasks import Batch, ClassificationMetrics, Records, Task

ROOT = Path(__file__).resolve().parent.parent
LETTERS = " etoahisnrldumyw,\nfcgbpvk.';:?!-"  # public: what is not here is a space
SEEN = 5  # letters before the one that is predicted
OF_ROLE = 256  # positions of a role at most
OF_TEST = 20_000
DELTA = 1e-3


class NextLetter(Task):
    """One linear layer on the last letters, each as one of the alphabet."""

    def __init__(self, info: DataInfo) -> None:
        self._classes = len(info.classes)

    def model(self) -> nn.Module:
        """Return the layer, which knows nothing yet: each letter is as likely."""
        layer = nn.Linear(SEEN * self._classes, self._classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:  # noqa: ARG002
        """Write each letter as a row of zeros with a one."""
        seen = functional.one_hot(records.features.to(torch.int64), self._classes)
        return {"inputs": seen.flatten(1).to(torch.float32), "targets": records.targets}

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of each record, in nats."""
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self) -> ClassificationMetrics:
        """Measure as the built-in tasks do."""
        return ClassificationMetrics(self._classes)


def positions(text: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the letters before each letter of a text, shape (n, SEEN), and the letters, shape (n,)."""
    codes = np.array([max(LETTERS.find(letter), 0) for letter in " " * SEEN + text.lower()])
    windows = np.lib.stride_tricks.sliding_window_view(codes, SEEN + 1)
    return windows[:, :SEEN].astype(np.float32), windows[:, SEEN].astype(np.int64)


def speeches(file: Path) -> dict[str, str]:
    """Return all that each role says."""
    said: dict[str, list[str]] = {}
    for row in pq.read_table(file).to_pylist():
        said.setdefault(row["speaker"], []).append(row["text"])
    return {role: "\n".join(texts) for role, texts in sorted(said.items())}


@cache
def records(folder: Path) -> DataStore:
    """Return positions of each role, and of the test speeches."""
    drawn, owners = np.random.default_rng(0), []
    features, targets = [], []
    roles = speeches(folder / "train.parquet")
    for number, text in enumerate(roles.values()):
        seen, following = positions(text)
        rows = np.sort(drawn.permutation(len(following))[:OF_ROLE])
        features.append(seen[rows])
        targets.append(following[rows])
        owners.append(np.full(len(rows), number, dtype=np.int64))
    seen, following = positions("\n".join(speeches(folder / "test.parquet").values()))
    rows = np.sort(drawn.permutation(len(following))[:OF_TEST])
    return DataStore(
        info=DataInfo(features=Columns(shape=(SEEN,)), target=ClassTarget(names=tuple(map(repr, LETTERS)))),
        train=Split(features=np.concatenate(features), targets=np.concatenate(targets), owners=np.concatenate(owners)),
        test=Split(features=seen[rows], targets=following[rows]),
        owners=tuple(roles),
    )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to: the test loss in nats, and the epsilon that its report gives; none without privacy."""

    loss: float
    epsilon: float | None


def noises(arguments: argparse.Namespace, separation: int) -> dict[str, dict[str, object]]:
    """Return the settings of each noise."""
    private = {"privacy.mode": "client", "privacy.epsilon": arguments.epsilon, "privacy.delta": DELTA}
    capped = {**private, "privacy.cohorts": "capped"}
    most = -(-arguments.rounds // separation)
    return {
        "none": {},
        "independent, capped": {**capped, "privacy.max_participations": most},
        "correlated, capped": {**capped, "privacy.mechanism": "banded", "privacy.separation": separation},
        "independent, secret cohorts": private,
    }


def run(arguments: argparse.Namespace, store: DataStore, settings: dict[str, object], out: Path, seed: int) -> Result:
    """Run once, or read what was run before, and audit a private run."""
    experiment = Experiment.from_dict(
        {
            "name": out.parent.name,
            "seed": seed,
            "device": "cpu",
            "federation.clients": len(store.owners),
            "federation.cohort": arguments.cohort,
            "federation.rounds": arguments.rounds,
            "data.source": "object",
            "data.partition.kind": "natural",
            "data.partition.column": "speaker",
            "training.learning_rate": arguments.rate,
            "training.batch_size": 32,
            "training.local_epochs": 1.0,
            "server.evaluate_every": arguments.rounds,
            "output.screen": "none",
            **settings,
        }
    )
    if (out / "report.json").exists():
        report = load_run(out, task=NextLetter).report
    else:
        begun = (out / "config.toml").exists()
        given = {"task": NextLetter, "data": store, "workers": arguments.workers}
        report = simulate(experiment, out=out, resume=begun, **given).report
        if report.privacy.mode != "none":
            check(out)
    if report.evaluation.final is None or report.evaluation.final.loss is None or report.status != "completed":
        sys.exit(f"{out} did not complete")
    return Result(loss=report.evaluation.final.loss, epsilon=report.privacy.epsilon)


def check(out: Path) -> None:
    """End the program if an audit of a run finds anything that fails."""
    verdict = audit_report(out, roster=out / "roster.json")
    if failed := [f"{entry.name}: {entry.detail}" for entry in verdict.checks if entry.status == "fails"]:
        sys.exit(f"{out}: {failed}")


def main() -> None:
    """Run all, and print a row for each noise and clipping norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/shakespeare")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "banded")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--cohort", type=int, default=29)
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--clips", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", help="beginnings of the names of the noises to run")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    store = records(arguments.data)
    separation = len(store.owners) // arguments.cohort
    print(
        f"{len(store.owners)} roles, {len(store.train)} training and {len(store.test)} test positions; "
        f"{arguments.rounds} rounds of {arguments.cohort}, separation {separation}, seeds {arguments.seeds}",
        flush=True,
    )
    print(f"{'noise':<28} {'clip':>6} {'epsilon':>8} {'loss':>8} {'spread':>7}")
    for name, settings in noises(arguments, separation).items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        for clip in arguments.clips if settings else [0.0]:
            setup = {**settings, "privacy.clip_norm": clip} if settings else {}
            label = f"{name.replace(', ', '-').replace(' ', '-')}-{clip:g}-{arguments.rounds}-{arguments.cohort}"
            label += f"-{arguments.epsilon:g}-{arguments.rate:g}"
            found = [run(arguments, store, setup, arguments.out / label / str(seed), seed) for seed in arguments.seeds]
            losses = [result.loss for result in found]
            epsilon = "-" if found[0].epsilon is None else f"{max(each.epsilon or 0.0 for each in found):.3f}"
            spread = stdev(losses) if losses[1:] else 0.0
            print(
                f"{name:<28} {clip or '-':>6} {epsilon:>8} {mean(losses):>8.4f} {spread:>7.4f}",
                " ".join(f"{loss:.4f}" for loss in losses),
                flush=True,
            )


if __name__ == "__main__":
    main()
