"""The frontier of accuracy against epsilon: one run for each point, one table and one picture of all.

    python simulations/frontier.py run digits            # runs what is missing of a workload, or of all
    python simulations/frontier.py draw                  # makes table and picture of the reports that there are
    python simulations/frontier.py unpack NAME out.json  # gives back a report, for `fedtrain audit out.json`

The points are in points.py. Each is run by `fedtrain.simulate`, in runs/frontier. Its report is audited, and kept
in results/frontier. A point whose report is there, with the same settings, is not run again. A run that was
interrupted goes on from its last round.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from points import WORKLOADS, Point, points
from stored import pack, unpack
from summary import Reached, as_csv, as_markdown, as_png

from fedtrain import Experiment, audit_report, simulate
from fedtrain.config import to_flat
from fedtrain.config.loading import config_digest
from fedtrain.files import write_atomic
from fedtrain.report import Report
from fedtrain.report.numbers import upper

ROOT: Final = Path(__file__).resolve().parent.parent
RUNS: Final = ROOT / "runs" / "frontier"
RESULTS: Final = Path(__file__).resolve().parent / "results" / "frontier"
README: Final = ROOT / "README.md"
PICTURE: Final = ROOT / "docs" / "images" / "frontier.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run what is missing")
    running.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"all, or some of {', '.join(WORKLOADS)}")
    running.add_argument("--workers", type=int, help="worker processes of a run")
    commands.add_parser("draw", help="make tables and picture of the reports that there are")
    unpacking = commands.add_parser("unpack", help="write a stored report as JSON")
    unpacking.add_argument("name", help="its file in results/frontier, without the ending")
    unpacking.add_argument("file", type=Path)
    arguments = parser.parse_args()
    os.chdir(ROOT)  # reports have paths, and it is from here that they are found
    sys.path.append(str(ROOT))  # encoders of these experiments
    if arguments.command == "unpack":
        arguments.file.write_bytes(unpack((RESULTS / f"{arguments.name}.json.xz").read_bytes()))
    elif arguments.command == "draw":
        draw()
    else:
        if unknown := sorted(set(arguments.workloads) - set(WORKLOADS)):
            parser.error(f"no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
        for name in arguments.workloads or WORKLOADS:
            for point in points(WORKLOADS[name]):
                print(line_of(reach(point, workers=arguments.workers)), flush=True)


def reach(point: Point, *, workers: int | None = None) -> Reached:
    """Return what a point reached, and run it first where there is no report of it."""
    if (reached := finished(point)) is None:
        run(point, workers=workers)
        reached = finished(point)
        assert reached is not None
    return reached


def run(point: Point, *, workers: int | None = None) -> Report:
    """Run a point, audit its report and keep it."""
    out = RUNS / f"{point.name}-{_digest(point)[:8]}"
    settings = point.settings() | {"output.screen": "none"}
    done = simulate(Experiment.load(point.config, settings), out=_from_root(out), resume=True, workers=workers)
    if done.report.proof is not None:  # a run without privacy claims nothing that could be audited
        verdict = audit_report(done)
        if verdict.outcome != "simulation":
            sys.exit(f"{out}: {verdict.summary}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS / point.file, pack((out / "report.json").read_bytes()))
    report = report_of(point)
    if report is None:
        sys.exit(f"{out}: the report is not that of a whole run of {point.name}")
    return report


def finished(point: Point) -> Reached | None:
    """Return what a point reached; ``None`` where there is no report of it with the same settings."""
    report = report_of(point)
    if report is None:
        return None
    final = report.evaluation.final
    if final is None or final.accuracy is None:
        sys.exit(f"the report {point.file} has no accuracy")
    private = report.proof is not None
    return Reached(
        point=point,
        epsilon=report.privacy.epsilon,
        delta=report.privacy.delta if private else None,
        rounds=report.rounds,
        accuracy=final.accuracy,
    )


def report_of(point: Point) -> Report | None:
    """Return the report that is kept of a point; ``None`` where there is none of a whole run with the same settings."""
    file = RESULTS / point.file
    if not file.is_file():
        return None
    report = Report.model_validate_json(unpack(file.read_bytes()))
    whole = report.status == "completed" and report.evaluation.final is not None
    return report if whole and config_digest(report.config) == _digest(point) else None


def line_of(reached: Reached) -> str:
    """Return what a point reached as a line for a person."""
    claim = "no privacy" if reached.epsilon is None else f"epsilon {upper(reached.epsilon)}, delta {reached.delta:g}"
    return f"{reached.point.name}: accuracy {reached.accuracy:.4f} after {reached.rounds} rounds, {claim}"


def all_finished() -> list[Reached]:
    """Return what the points reached that there are reports of."""
    return [reached for workload in WORKLOADS.values() for point in points(workload) if (reached := finished(point))]


def draw() -> None:
    """Write tables and picture of the reports that there are, and put the table into the README."""
    found = all_finished()
    write_atomic(RESULTS / "frontier.csv", as_csv(found).encode())
    write_atomic(RESULTS / "frontier.md", as_markdown(found).encode())
    write_atomic(PICTURE, as_png(found))
    write_into_readme("frontier", as_markdown(found))


def write_into_readme(name: str, text: str) -> None:
    """Put a text between the README's marks of a name."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->\n")
    if not end:
        sys.exit(f"{README} has no marks for the table of the {name}")
    write_atomic(README, f"{before}{begin}{text}{end}{after}".encode())


def _digest(point: Point) -> str:
    return config_digest(to_flat(Experiment.load(point.config, point.settings())))


def _from_root(path: Path) -> str:
    """Return a path as reports may have it: they do not say where this folder is."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
