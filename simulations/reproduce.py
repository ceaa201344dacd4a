"""Reproduce the published runs, and draw their curves.

    python simulations/reproduce.py cifar10 cifar10_dp --picture runs/cifar10.png
    python simulations/reproduce.py --table
    python simulations/reproduce.py --table --kept

Each name is that of a configuration in this folder. Its run is left in runs/NAME; a run that was interrupted goes on.
--table makes the README's table of all workloads (workloads.py) of the reports that are kept, and runs what is missing;
with --kept it has the rows that there are reports of, and nothing is run.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import frontier
import workloads

from fedtrain.report import Report
from fedtrain.report.numbers import upper
from fedtrain.report.plots import curve_png

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}")
    parser.add_argument("--picture", type=Path, help="PNG file for the first metric over the rounds")
    parser.add_argument("--table", action="store_true", help="make the table of all workloads")
    parser.add_argument("--kept", action="store_true", help="of the table: leave out what is missing, and run nothing")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(known)):
        parser.error(f"no configuration {unknown[0]!r}; there are {', '.join(known)}")
    if arguments.table == bool(arguments.names):
        parser.error("name configurations, or give --table")
    if arguments.kept and not arguments.table:
        parser.error("--kept is of --table")
    if arguments.table:
        table(kept=arguments.kept)
        return
    curves, metrics = {}, {}
    for name in arguments.names:
        report = run(name)
        curves[f"{name}: {guarantee(report)}"] = report.evaluation.history
        metrics |= {metric.name: metric for metric in report.evaluation.metrics[:1]}
        print(f"{name}: {reached(report)} after {report.rounds} rounds, {guarantee(report)}")
    if arguments.picture is not None:
        if len(metrics) != 1:
            sys.exit(f"no picture: the runs are measured by {', '.join(metrics) or 'nothing'}; name runs of one metric")
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        curve_png(arguments.picture, curves, *metrics.values())


def table(*, kept: bool) -> None:
    """Put the table of all workloads into the README; a run without a report is made first, or left out."""
    os.chdir(ROOT)  # as those of the frontier
    sys.path.append(str(ROOT))
    found = [
        (point, frontier.report_of(point) or (None if kept else frontier.run(point))) for point in workloads.chosen()
    ]
    reports = [(point, report) for point, report in found if report is not None]
    frontier.write_into_readme("workloads", workloads.as_markdown(reports))
    if missing := [point.name for point, report in found if report is None]:
        print(f"the table is without {', '.join(missing)}: there are no reports of them")


def guarantee(report: Report) -> str:
    epsilon = report.privacy.epsilon
    return "no privacy" if epsilon is None else f"epsilon {upper(epsilon)}, delta {report.privacy.delta:g}"


def reached(report: Report) -> str:
    """Return the first metric of the last evaluation, as the report has it."""
    final, metric = report.evaluation.final, next(iter(report.evaluation.metrics), None)
    return "no metric" if final is None or metric is None else f"{metric.name} {final.value(metric.name)}"


def run(name: str) -> Report:
    config, out = ROOT / "simulations" / f"{name}.toml", ROOT / "runs" / name
    command = [sys.executable, "-c", "from fedtrain.cli import main; main()", "simulate"]
    subprocess.run([*command, "--config", config, "--out", out, "--resume"], check=True, cwd=ROOT)
    return Report.model_validate_json((out / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
