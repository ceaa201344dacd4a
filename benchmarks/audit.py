"""The time of an audit beside its floor: to verify the signatures in the report, and nothing else.

    python benchmarks/audit.py [--rounds N] [--clients N] [--repeat N]

Each line is the whole of ``fedtrain audit`` in a process of its own, imports included, the same without them, and the
floor. A report that is not held to be true with pinned keys is an error, and so is a signature that was not verified.
Seconds are of the wall, each the median over the repeats; the ratio is to the floor.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from proof import require

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
                found = way(report, roster)
                samples[name].append(time.perf_counter() - started)
                check(name, found, signed=2 * arguments.rounds * arguments.clients)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    for name, median in medians.items():
        print(f"{name:24} {median:7.2f} s  {median / medians[FLOOR]:6.2f}x")


def check(name: str, found: str | int, *, signed: int) -> None:
    """Require that an audit held the report to be true, with pinned keys; and of the floor, that it verified all."""
    if isinstance(found, int):
        require(found == signed, f"{name} has verified {found} signatures, and the clients have made {signed}")
    else:
        require(found.startswith("The report holds"), f"{name} says: {found}")


def command(report: Path, roster: Path) -> str:
    program = [sys.executable, "-c", "from fedtrain.cli import main; main()", "audit", "--json"]
    done = subprocess.run([*program, report, "--roster", roster], check=True, capture_output=True, text=True)
    return str(json.loads(done.stdout)["verdict"])


def audited(report: Path, roster: Path) -> str:
    return audit(read_report(report.read_bytes()), roster=Roster.read(roster)).summary


def signatures(report: Path, roster: Path) -> int:
    keys, verified = Roster.read(roster).clients, 0
    for ledger in json.loads(report.read_bytes())["proof"]["ledgers"]:
        for entry in ledger["entries"]:
            SignedEnvelope.from_json(entry).verify(keys[ledger["client"]], PAYLOAD_TYPE)
            verified += 1
    return verified


FLOOR = "signatures alone"
WAYS = {"fedtrain audit": command, "without the imports": audited, FLOOR: signatures}


if __name__ == "__main__":
    main()
