"""The time of an audit beside its floor: to verify the signatures in the report, and nothing else.

    python benchmarks/audit.py [--rounds N] [--clients N] [--repeat N]

Each line is the whole of ``fedtrain audit`` in a process of its own, imports included, the same without them, and the
floor. Seconds are of the wall, each the median over the repeats; the ratio is to the floor.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedtrain.audit import audit, read_report
from fedtrain.crypto import SignedEnvelope
from fedtrain.ledger.entry import PAYLOAD_TYPE
from fedtrain.privacy import PrivacyPlan
from fedtrain.trust import Roster
from tests.unit.audit.world import World, spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, taken in turn")
    arguments = parser.parse_args()
    plan = PrivacyPlan(spec=spec(rounds=arguments.rounds, epsilon=400.0), noise_multiplier=2.0)
    world = World(
        plan=plan, clients=arguments.clients, rounds=arguments.rounds, earlier=(), lost=(), refused=(), silent=()
    )
    with tempfile.TemporaryDirectory() as folder:
        report, roster = Path(folder) / "report.json", Path(folder) / "roster.json"
        report.write_text(json.dumps(world.report()), encoding="utf-8")
        world.roster.write(roster)
        print(f"{arguments.rounds} rounds, {arguments.clients} clients, {report.stat().st_size / 1e6:.1f} MB")
        samples: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(arguments.repeat):
            for name, way in WAYS.items():
                started = time.perf_counter()
                way(report, roster)
                samples[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    for name, median in medians.items():
        print(f"{name:24} {median:7.2f} s  {median / medians[FLOOR]:6.2f}x")


def command(report: Path, roster: Path) -> None:
    program = [sys.executable, "-c", "from fedtrain.cli import main; main()", "audit"]
    subprocess.run([*program, report, "--roster", roster], check=True, stdout=subprocess.DEVNULL)


def audited(report: Path, roster: Path) -> None:
    if not audit(read_report(report.read_bytes()), roster=Roster.read(roster)).holds:
        sys.exit("the honest report was rejected")


def signatures(report: Path, roster: Path) -> None:
    keys = Roster.read(roster).clients
    for ledger in json.loads(report.read_bytes())["proof"]["ledgers"]:
        for entry in ledger["entries"]:
            SignedEnvelope.from_json(entry).verify(keys[ledger["client"]], PAYLOAD_TYPE)


FLOOR = "signatures alone"
WAYS = {"fedtrain audit": command, "without the imports": audited, FLOOR: signatures}


if __name__ == "__main__":
    main()
