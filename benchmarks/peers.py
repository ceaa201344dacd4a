"""Whole runs of fedtrain beside those of its peers: seconds, the end of round 1, a round, the processor, memory.

    python benchmarks/peers.py [--repeat N] [--rounds N] [W1 W2]

W1  the CNN of the Keras tutorial on CIFAR-10: 10,000 images over 100 clients, 10 a round, batch 20, SGD 0.1, one epoch
    a round, and all 10,000 test images measured before the first round and after each
W2  the same under DP-SGD: noise multiplier 1.0, clip norm 1.0, sampling rate 0.2, five steps a round

W1 is run by `fedtrain simulate` on two workers, by BlazeFL's threads, by pfl-research in one process, and by a bare
loop in one process. W2 is run by `fedtrain simulate`, which accounts for each client, signs and reports, and by bare
loops with Opacus: one without any epsilon, one that asks for it after each client. Engines are run in turn, each in a
process of its own. Images are decoded before the clock runs, for all.

BlazeFL and pfl-research are installed in environments of their own in build/peers. BlazeFL asks for Python 3.14, for
which there may be no Python and no torch without CUDA. On 3.11 its two generic functions are rewritten with a
`TypeVar`, and annotations are deferred, as on 3.14; nothing else is changed. Its threads share the lock of the
interpreter, as on 3.14 without free threading; torch releases it while it computes.

Each engine is given the threads it is made for: OMP_NUM_THREADS is 2 for one process that computes alone, 1 for two
threads of Python, and not set for fedtrain, whose workers take one each. Memory is the largest proportional set size of
the tree. The processor's seconds are those of the process that is started and of those that it waits for, fedtrain's
workers among them.

An engine ends with an error where a round is missing, where clients have not trained on all their records, where the
loss is not finite or the model of W1 has learnt nothing, and where an epsilon was to be found and was not.
"""

import argparse
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from proof import require, require_loss
from scale import Memory

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "peers"
CLIENTS, COHORT, RECORDS = 100, 10, 100
TORCH = "torch==2.13.0"
_ROUND = re.compile(r"round (\d+)/")
_DEFERRED = "from __future__ import annotations\n"
_GENERIC = ("def process_tensors_in_object[T](", "def reconstruct_from_shared_memory[T](")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One way to do the work.

    Attributes:
        name: what it is called.
        program: its arguments to Python.
        environment: the environment in build/peers; ``None`` for that of fedtrain.
        threads: OMP_NUM_THREADS; ``None`` for not set.
        epsilon: whether it is to find one.
    """

    name: str
    program: tuple[str, ...]
    environment: str | None = None
    threads: int | None = 2
    epsilon: bool = False


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one run took, in seconds and bytes, and what its model measured at the end."""

    whole: float
    first: float
    steady: float
    processor: float
    memory: int
    loss: float
    accuracy: float


FEDTRAIN = ("-c", "from fedtrain.cli import main; main()", "simulate", "--workers", "2")
ENGINES = {
    "W1": (
        Engine(name="fedtrain", program=FEDTRAIN, threads=None),
        Engine(name="blazefl", program=("peers_blazefl.py",), environment="blazefl", threads=1),
        Engine(name="pfl-research", program=("peers_pfl.py",), environment="pfl"),
        Engine(name="bare loop", program=("peers_bare.py", "plain")),
    ),
    "W2": (
        Engine(name="fedtrain", program=FEDTRAIN, threads=None, epsilon=True),
        Engine(name="bare loop", program=("peers_bare.py", "private")),
        Engine(name="bare loop, epsilon", program=("peers_bare.py", "epsilon"), epsilon=True),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(ENGINES)}; by default both")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each engine, taken in turn")
    parser.add_argument("--rounds", type=int, default=5, help="at least 3")
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - set(ENGINES):
        parser.error(f"there is no workload {', '.join(sorted(unknown))}")
    if arguments.rounds < 3:  # noqa: PLR2004 - of fewer no round is steady
        parser.error("--rounds is at least 3")
    workloads = arguments.workloads or list(ENGINES)
    for name in {engine.environment for workload in workloads for engine in ENGINES[workload]} - {None}:
        install(str(name))
    with tempfile.TemporaryDirectory() as folder:
        decode(Path(folder))
        for workload in workloads:
            samples: dict[Engine, list[Sample]] = {engine: [] for engine in ENGINES[workload]}
            for _ in range(arguments.repeat):
                for engine, found in samples.items():
                    found.append(measured(engine, workload, Path(folder), arguments.rounds))
            show(workload, arguments.rounds, samples)


def install(name: str) -> None:
    """Make the environment of a peer, if it is not there."""
    folder = BUILD / name
    stamp = folder / ".installed"
    if stamp.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if name == "pfl":
        subprocess.run([*pip, TORCH, "pfl==0.6.0", "wheel<0.46"], check=True)
    else:
        subprocess.run([*pip, TORCH, "numpy==2.4.0", "tqdm==4.67.1"], check=True)
        subprocess.run([*pip, "--no-deps", "--ignore-requires-python", "blazefl==3.0.0"], check=True)
        (package,) = folder.glob("lib/python*/site-packages/blazefl")
        generic = package / "core" / "utils.py"
        generic.write_text(without_generics(generic.read_text(encoding="utf-8")), encoding="utf-8")
        for file in package.rglob("*.py"):
            file.write_text(f"{_DEFERRED}{file.read_text(encoding='utf-8')}", encoding="utf-8")
    stamp.touch()


def without_generics(source: str) -> str:
    """Return BlazeFL's module with its two generic functions in the form that Python 3.11 knows."""
    for generic in _GENERIC:
        require(source.count(generic) == 1, f"blazefl has no {generic}")
        source = source.replace(generic, generic.replace("[T]", ""))
    imported = "from typing import Any, Literal\n"
    require(source.count(imported) == 1, "blazefl imports something else from typing")
    return source.replace(imported, f'{imported.rstrip()}, TypeVar\n\nT = TypeVar("T")\n')


def decode(folder: Path) -> None:
    """Write the images for all engines, in the form that each can read at once."""
    prepare = (
        "import sys, numpy as np\n"
        "from fedtrain.config import Data\n"
        "from fedtrain.data.sources.parquet import decode_parquet\n"
        "found = decode_parquet(Data(source='parquet', path=sys.argv[1], test_path=sys.argv[2]))\n"
        "for name, split in (('train', found.train), ('test', found.test)):\n"
        "    np.savez(f'{sys.argv[3]}/{name}.npz', x=split.features[:10_000], y=split.targets[:10_000])\n"
    )
    data = Path(os.environ.get("FEDTRAIN_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
    if not data.is_dir():
        sys.exit(f"CIFAR-10 is not in {data}; FEDTRAIN_DATA names the folder above it")
    arguments = [str(data / "train.parquet"), str(data / "test.parquet"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", prepare, *arguments], check=True, env=environment)
    sizes = [len(np.load(folder / f"{name}.npz")["y"]) for name in ("train", "test")]
    require(sizes == [CLIENTS * RECORDS] * 2, f"there are {sizes} training and test images")


def experiment(workload: str, folder: Path, rounds: int) -> str:
    """Return the experiment that fedtrain runs."""
    settings: dict[str, object] = {
        "name": workload,
        "seed": 1,
        "federation.clients": CLIENTS,
        "federation.cohort": COHORT,
        "federation.rounds": rounds,
        "data.source": "npz",
        "data.path": str(folder / "train.npz"),
        "data.test_path": str(folder / "test.npz"),
        "task.model": "cnn-cifar",
        "training.batch_size": 20,
        "training.learning_rate": 0.1,
        "output.screen": "plain",
    }
    if workload == "W2":
        settings |= {
            "privacy.mode": "record",
            "privacy.sampling_rate": 0.2,
            "privacy.noise_multiplier": 1.0,
            "privacy.epsilon": 100.0,
            "privacy.delta": 1e-3,
        }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def measured(engine: Engine, workload: str, folder: Path, rounds: int) -> Sample:
    """Run an engine, and require that it did the work."""
    with tempfile.TemporaryDirectory(dir=folder) as run:
        arguments, own = list(engine.program), engine.environment is None
        if engine.name == "fedtrain":
            config = Path(run) / "experiment.toml"
            config.write_text(experiment(workload, folder, rounds), encoding="utf-8")
            arguments += ["--config", str(config), "--out", str(Path(run) / "run")]
        else:
            arguments[0] = str(HERE / arguments[0])
        environment = {
            **{name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
            "FEDTRAIN_PEERS": str(folder),
            "FEDTRAIN_PEERS_ROUNDS": str(rounds),
            "FEDTRAIN_CACHE": str(folder / "cache"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}" if own else str(HERE),
        }
        if engine.threads is not None:
            environment["OMP_NUM_THREADS"] = str(engine.threads)
        python = sys.executable if own else str(BUILD / str(engine.environment) / "bin" / "python")
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        errors = Path(run) / "errors"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [python, *arguments], cwd=run, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True
            )
            memory = Memory(process.pid)
            assert process.stdout is not None
            lines = [(time.monotonic() - started, line) for line in process.stdout]
            status, whole, peak = process.wait(), time.monotonic() - started, memory.end()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        require(status == 0, f"{engine.name} ended with status {status}:\n{errors.read_text(encoding='utf-8')[-3000:]}")
        found = list(reported(Path(run) / "run", lines) if engine.name == "fedtrain" else said(lines))
    check(found, rounds, learns=workload == "W1", epsilon=engine.epsilon)
    marks = [mark for mark, _ in found]
    return Sample(
        whole=whole,
        first=marks[1],
        steady=statistics.median(later - earlier for earlier, later in pairwise(marks[1:])),
        processor=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        memory=peak,
        loss=found[-1][1]["loss"],
        accuracy=found[-1][1]["accuracy"],
    )


def said(lines: list[tuple[float, str]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Give what a program said of each round, and when."""
    for mark, line in lines:
        if line.startswith("{"):
            yield mark, json.loads(line)


def reported(run: Path, lines: list[tuple[float, str]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Give what a report of fedtrain has of each round, and when the screen told of it."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    marks = {int(match[1]): mark for mark, line in lines if (match := _ROUND.match(line))}
    trained = 0
    completed = {entry["round"]: len(entry["completed"]) for entry in report["round_log"]}
    for each in report["evaluation"]["history"]:
        trained += RECORDS * completed.get(each["round"], 0)
        yield (
            marks.get(each["round"], 0.0),
            {**each, "trained": trained, "epsilon": report["privacy"].get("epsilon")},
        )


def check(found: list[tuple[float, dict[str, Any]]], rounds: int, *, learns: bool, epsilon: bool) -> None:
    """Require that the work was done."""
    numbers = [each["round"] for _, each in found]
    require(numbers == list(range(rounds + 1)), f"the rounds are {numbers}")
    last, losses = found[-1][1], [each["loss"] for _, each in found]
    require(last["accuracy"] > 0 and len(set(losses)) == len(losses), f"the losses are {losses}")
    require_loss(losses[0], losses[-1], falls=learns)
    # Poisson sampling draws some records twice and others never: the loops count the clients' records.
    done = last["trained"]
    require(done == rounds * COHORT * RECORDS, f"clients have trained on {done} records")
    if epsilon:
        spent = last["epsilon"]
        require(spent is not None and 0 < spent < math.inf, f"epsilon is {spent}")


def show(workload: str, rounds: int, samples: dict[Engine, list[Sample]]) -> None:
    sys.stdout.write(f"\n{workload}, {rounds} rounds: medians, and the least and the most of whole runs\n")
    columns = ("whole, s", "least", "most", "round 1, s", "round, s", "processor, s", "MB", "loss", "accuracy")
    sys.stdout.write(f"{'':<20}" + "".join(f"{name:>14}" for name in columns) + "\n")
    for engine, found in samples.items():

        def middle(name: str, found: list[Sample] = found) -> float:
            return statistics.median(getattr(sample, name) for sample in found)

        whole = [sample.whole for sample in found]
        row = [middle("whole"), min(whole), max(whole), *(middle(name) for name in ("first", "steady", "processor"))]
        cells = [*(f"{value:.2f}" for value in row), f"{middle('memory') / 1e6:.0f}"]
        cells += [f"{middle('loss'):.4f}", f"{middle('accuracy'):.4f}"]
        sys.stdout.write(f"{engine.name:<20}" + "".join(f"{cell:>14}" for cell in cells) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
