"""Noise that clients share, beside no privacy and local noise, with masks and without; and Flower's SecAgg+.

    python benchmarks/distributed.py [--clients N] [--rounds N] [--flower] [plain local shared masked]

Each row is a simulation of this program on two workers: 100 clients of 100 records and a model of 155,018 numbers,
every client in every round, and secure noise.

plain        no privacy, one step a round
local        record privacy, all noise at each client, one step a round
shared       record privacy, the noise shared, without masks
masked       the same with masks

Seconds of a round are the median of those after the first: what others do on the machine moves them. Bytes are what a
client sends in a round, both exchanges, without the framing of arrays. --flower adds what one client of Flower's
SecAgg+ computes and sends for the same vector and cohort, a tenth of which is lost.

A run that did not do its work ends with an error: every client in every round, and private runs with an audit that
finds nothing wrong.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transport_peer as peer
from proof import require

from fedtrain import Experiment, Run, audit_report, simulate
from fedtrain.audit import Verdict
from fedtrain.secagg import Parameters
from fedtrain.secagg.graph import default_threshold
from fedtrain.secagg.messages import DIGEST_BYTES, SEED_BYTES, bundle_bytes

FEATURES, RECORDS, CLASSES, LENGTH = 2411, 100, 10, 155_018
WORD = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a way to train costs.

    Attributes:
        name: of the way.
        seconds: of a round.
        whole: seconds of all rounds, with starts, ends and the report.
        sent: bytes that a client sends in a round.
    """

    name: str
    seconds: float
    whole: float
    sent: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", metavar="way", help=f"of {', '.join(WAYS)}; by default all")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--flower", action="store_true", help="also one client of Flower's SecAgg+")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.ways) - set(WAYS)):
        parser.error(f"there is no way {', '.join(unknown)}: choose of {', '.join(WAYS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / "records.npz", arguments.clients)
        runs = {}
        sys.stdout.write(f"{'':<10}{'s a round':>12}{'s in all':>12}{'bytes a client':>16}\n")
        for way in arguments.ways or WAYS:
            row, runs[way] = measured(way, WAYS[way], folder, arguments.clients, arguments.rounds)
            sys.stdout.write(f"{row.name:<10}{row.seconds:>12.2f}{row.whole:>12.1f}{row.sent:>16,}\n")
            sys.stdout.flush()
        require(
            not any(audited(run).of("fails") for run in runs.values() if run.report.proof),
            "an audit fails",
        )
    if arguments.flower:
        threshold = default_threshold(arguments.clients - 1)
        update = np.random.default_rng(0).normal(0, 0.1, LENGTH).astype(np.float32)
        work, _ = peer.one_client(arguments.clients, threshold, update, lost=arguments.clients // 10)
        sys.stdout.write(f"Flower's SecAgg+: {work.clients[0]:.2f} s of one client, {work.sent:,} bytes\n")


PRIVATE = {
    "privacy.mode": "record",
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-3,
    "privacy.sampling_rate": 0.2,
    "privacy.noise": "secure",
}
SHARED = {**PRIVATE, "privacy.trust": "distributed", "privacy.colluders": 1}
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "local": PRIVATE,
    "shared": SHARED,
    "masked": {**SHARED, "transport.secagg.enabled": True},
}


def write_records(path: Path, clients: int) -> None:
    """Write records of classes that can be told apart, 100 for each client and 50 to test."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, clients * RECORDS + 50)
    features = generator.normal(0, 0.3, (len(labels), FEATURES)).astype(np.float32)
    features[np.arange(len(labels)), labels] += 1
    np.savez(path, x=features, y=labels)


def measured(way: str, settings: dict[str, object], folder: Path, clients: int, rounds: int) -> tuple[Row, Run]:
    """Run a way, and return what it cost.

    Raises:
        SystemExit: not every client was in every round.
    """
    experiment = Experiment.from_dict(
        {
            "federation": {"clients": clients, "cohort": clients, "rounds": rounds},
            "data": {"source": "npz", "path": str(folder / "records.npz"), "test_fraction": 0.005},
            "data.cache": str(folder / "cache"),
            "task": {"name": "tabular", "model": "mlp"},
            "training": {"batch_size": 20, "local_steps": 1, "learning_rate": 0.5},
            "server.evaluate_every": rounds,
            "output.screen": "none",
            **settings,
        }
    )
    begun = time.perf_counter()
    run = simulate(experiment, out=folder / way, workers=2)
    whole = time.perf_counter() - begun
    log = run.report.round_log
    require(len(log) == rounds and all(len(entry.completed or ()) == clients for entry in log), f"{way}: clients lost")
    require(run.report.model.parameters == LENGTH, f"{way}: {run.report.model.parameters} numbers in the model")
    seconds = statistics.median(entry.seconds for entry in log[1:] or log)
    return Row(name=way, seconds=seconds, whole=whole, sent=sent(way, clients)), run


def audited(run: Run) -> Verdict:
    """Return what an audit of a run finds."""
    return audit_report(run, roster=run.path / "roster.json")


def sent(way: str, clients: int) -> int:
    """Return the bytes of numbers, shares and commitments that a client sends in a round in which nobody is lost."""
    if way != "masked":
        return WORD * LENGTH
    parameters = Parameters.plan(members=clients, length=LENGTH, bits=22, bound=1.0)
    holders = parameters.neighbours + 1
    first = parameters.width * LENGTH + holders * (bundle_bytes(parameters.neighbours) + DIGEST_BYTES)
    return first + clients * SEED_BYTES


if __name__ == "__main__":
    main()
