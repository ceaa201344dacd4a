"""How long a round takes, from the first to the thousandth, in record mode: it must not depend on the rounds before.

    python benchmarks/rounds.py [--rounds N] [CHECKOUT ...]

10 clients hold 144 images of handwritten digits each and train a linear model by one private step a round, so that what
is measured is all that surrounds the training: reservation, settlement, signatures, accounting, checkpoint. Shown is
the mean of a round in each tenth of the run, in wall time and in processor time of all processes of the run. The latter
depends little on what else the machine does. The code is that of this checkout, or of others, one after another.

The run is then checked: each client's ledger has a reservation and a settlement of each round, the report has as many
rounds, and its epsilon is within the budget. A benchmark that did no work ends with an error.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS, PARTS, EPSILON = 10, 10, 8.0
_ROUND = re.compile(r"round \d+/")
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[ROOT], metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=1000, help="a multiple of 10, at least 20")
    arguments = parser.parse_args()
    for checkout in arguments.checkouts:
        with tempfile.TemporaryDirectory() as folder:
            marks = run(checkout.resolve(), Path(folder), arguments.rounds)
            epsilon = check(Path(folder) / "run", arguments.rounds)
        early, late = part(marks[: len(marks) // PARTS], 1), part(marks, PARTS)
        print(f"{'last/first':>10}{late[0] / early[0]:>12.2f}{late[1] / early[1]:>16.2f}")
        print(f"{checkout}: epsilon {epsilon:.3f}, {CLIENTS} ledgers of {2 * arguments.rounds} entries", flush=True)


def run(checkout: Path, folder: Path, rounds: int) -> list[tuple[float, float]]:
    """Run the experiment, and return the time after each round: on the clock, and of the processors."""
    config = folder / "rounds.toml"
    config.write_text(experiment(rounds), encoding="utf-8")
    command = [sys.executable, "-c", "from fedtrain.cli import main; main()", "simulate", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "FEDTRAIN_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        [*command, "--config", str(config), "--out", str(folder / "run")],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    print(f"{CLIENTS} clients, {rounds} rounds, record privacy\n{'rounds to':>10}{'wall, ms':>12}{'processor, ms':>16}")
    marks: list[tuple[float, float]] = []
    for line in process.stdout:
        if _ROUND.match(line):
            marks.append((time.monotonic(), processor_seconds(process.pid)))
            if len(marks) % (rounds // PARTS) == 0:
                wall, processor = part(marks, len(marks) * PARTS // rounds)
                print(f"{len(marks):>10}{wall * 1000:>12.1f}{processor * 1000:>16.1f}", flush=True)
    if process.wait() or len(marks) != rounds:
        sys.exit(f"{checkout}: the run ended after {len(marks)} rounds")
    return marks


def check(folder: Path, rounds: int) -> float:
    """Check that the work was done, and return the epsilon that was spent."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    epsilon = float(report["privacy"]["epsilon"])
    ledgers = [path.read_bytes() for path in sorted(folder.glob("clients/*/ledgers/*.jsonl"))]
    lengths = {ledger.count(b"\n") for ledger in ledgers}
    if (len(ledgers), lengths, report["rounds"]) != (CLIENTS, {2 * rounds}, rounds):
        sys.exit(f"{len(ledgers)} ledgers of {lengths} entries after {report['rounds']} rounds")
    if not 0 < epsilon <= EPSILON:
        sys.exit(f"epsilon is {epsilon}")
    return epsilon


def experiment(rounds: int) -> str:
    return f"""
name = "rounds"
seed = 1
[federation]
clients = {CLIENTS}
cohort = {CLIENTS}
rounds = {rounds}
min_results = {CLIENTS}
[data]
source = "digits"
test_fraction = 0.2
[task]
model = "linear"
[training]
learning_rate = 0.1
batch_size = 14
local_steps = 1
[server]
evaluate_every = 1
[output]
screen = "plain"
[privacy]
mode = "record"
epsilon = {EPSILON}
delta = 1e-4
sampling_rate = 0.1
"""


def processor_seconds(root: int) -> float:
    """Return the processor time of a process and of all that it started, those that ended included."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(fields[1])
            seconds[int(entry.name)] = sum(map(int, fields[11:15])) / _TICKS
    family, before = {root}, 0
    while len(family) > before:
        before = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    return sum(seconds.get(process, 0.0) for process in family)


def part(marks: list[tuple[float, float]], number: int) -> tuple[float, float]:
    """Return the mean of a round in a tenth of the run, on the clock and of the processors.

    The first round is not timed: what it takes to start is in it.
    """
    size = len(marks) // number
    first = max((number - 1) * size - 1, 0)
    wall, processor = (after - before for before, after in zip(marks[first], marks[number * size - 1], strict=True))
    count = number * size - 1 - first
    return wall / count, processor / count


if __name__ == "__main__":
    main()
