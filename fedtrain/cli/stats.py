"""``fedtrain stats``: private statistics of columns over a federation, in one round."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet, Settings
from fedtrain.config import from_flat, parse_settings, read_toml
from fedtrain.report.numbers import upper

if TYPE_CHECKING:
    from fedtrain.api import Run
    from fedtrain.statistics import ColumnEstimates, Estimate

_FIXED = {
    "task.name": "statistics",
    "privacy.mode": "record",
    "privacy.sampling_rate": 1.0,
    "federation.rounds": 1,
    "output.screen": "plain",
}
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def stats(
    source: Annotated[
        Path, typer.Argument(help="TOML file of a federation and its columns, or the folder of a run that has ended.")
    ],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder (output.directory).")] = None,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Print the line that standardises the columns in an experiment (task.scaling)."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Release statistics of columns over a federation, charged to the ledgers.

    A file is run on this machine, as by simulate. Those of a run folder are shown: nothing is released anew, and
    nothing is charged.
    """
    with output(as_json, quiet) as told:
        experiment = None
        if not source.is_dir():
            sys.path.append(str(Path.cwd()))
            flat = _FIXED | read_toml(source) | parse_settings(settings or ())
            experiment = from_flat(flat | ({"output.screen": "none"} if told.silent else {}))
        told.starting()
        from fedtrain.api import load_run, simulate  # noqa: PLC0415 - torch takes seconds to import

        run = load_run(source) if experiment is None else simulate(experiment, out=out)
        if as_json:
            told.answer(_found(run))
        elif scaling:
            sys.stdout.write(f"{_scaling(run)}\n")
        else:
            _show(run)


def _found(run: "Run") -> dict[str, Any]:
    """Return the statistics of a run as JSON can hold them."""
    estimates, report = run.statistics(), run.report
    return {
        "clients": {"summed": len(_summed(run)), "all": report.data.clients},
        "count": asdict(estimates.count),
        "columns": [_as_data(column) for column in estimates.columns],
        "classes": dict(zip(report.data.classes, map(asdict, estimates.classes), strict=True))
        if estimates.classes
        else {},
        "epsilon": report.privacy.epsilon,
        "delta": report.privacy.delta,
        "run": str(run.path),
    }


def _summed(run: "Run") -> tuple[int, ...]:
    """Return the clients whose records are in the sum."""
    return run.report.round_log[0].completed or ()


def _scaling(run: "Run") -> str:
    """Return the line of an experiment's section [task] that standardises the columns of a run, its target excepted."""
    features = run.report.data.features
    found = [column.scaling for column in run.statistics().columns if not features or column.column.name in features]
    return f"scaling = {json.dumps([str(each) for each in found if each is not None], ensure_ascii=False)}"


def _as_data(column: "ColumnEstimates") -> dict[str, Any]:
    return {
        **asdict(column),
        "quantiles": {str(fraction): column.quantile(fraction) for fraction in _QUANTILES if column.histogram},
    }


def _show(run: "Run") -> None:
    """Print the statistics of a run, each with the interval of 95 % that its noise leaves."""
    estimates, report = run.statistics(), run.report
    console = Console(width=110)
    summed, clients = len(_summed(run)), report.data.clients
    of = f", those of {summed} of the {clients} clients" if summed < clients else ""
    console.print(f"records: {_with_error(estimates.count)}{of}", highlight=False)
    table = Table("column", "bounds", "mean", "variance", *(f"{fraction:.0%}" for fraction in _QUANTILES), box=None)
    for column in estimates.columns:
        bounds = f"{column.column.lower:g} to {column.column.upper:g}"
        quantiles = (column.quantile(fraction) for fraction in _QUANTILES)
        table.add_row(
            column.column.name,
            bounds,
            _with_error(column.mean),
            _with_error(column.variance),
            *("" if value is None else f"{value:.4g}" for value in quantiles),
        )
    console.print(table, highlight=False)
    if estimates.classes:
        counts = Table("class", "records", box=None)
        for name, count in zip(report.data.classes, estimates.classes, strict=True):
            counts.add_row(name, _with_error(count))
        console.print(counts, highlight=False)
    epsilon = upper(report.privacy.epsilon or 0.0)
    console.print(
        "± is 1.96 standard errors of the noise: the statistic without noise is within, with a probability of 95 %. It "
        f"says nothing of sampling.\nepsilon {epsilon} at delta {report.privacy.delta:g}; report: "
        f"{run.path / 'report.html'}",
        highlight=False,
        soft_wrap=True,
    )


def _with_error(estimate: "Estimate | None") -> str:
    if estimate is None:
        return "too few records"
    low, high = estimate.interval
    return f"{estimate.value:.4g} ± {(high - low) / 2:.2g}"
