"""``fedtrain budget``: what a client's data sets have spent, what is left, and how many more rounds fit."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet, Settings
from fedtrain.config import from_flat, read_flat
from fedtrain.ledger.budget import BudgetRow, budget_rows
from fedtrain.report.numbers import upper

_SHOWN = 12  # letters of a data set's digest


def budget(
    sites: Annotated[Path, typer.Argument(help="Folder of one client, of all sites of a simulation, or of a run.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Experiment whose rounds are to fit; by default the last run's."),
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the spent and the remaining budget of each data set, and how many more rounds fit."""
    with output(as_json, quiet) as out:
        flat = read_flat(config, settings)
        experiment = from_flat(flat) if flat else None
        out.starting("computing epsilon takes some seconds")
        rows = budget_rows(sites, experiment)
        if as_json:
            out.answer({"datasets": [asdict(row) for row in rows]})
        else:
            Console(width=110).print(_table(rows))


def _table(rows: Iterable[BudgetRow]) -> Table:
    headings = ("client", "data set", "runs", "charges", "spent", "left", "budget", "delta", "what fits")
    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(
            row.client,
            row.dataset[:_SHOWN],
            str(row.runs),
            str(row.rounds),
            upper(row.spent),
            f"{int(row.left * 100) / 100:.2f}",
            f"{row.budget:g}",
            f"{row.delta:g}",
            "" if row.fits is None else f"{row.fits} {row.unit}{'' if row.fits == 1 else 's'}",
        )
    return table
