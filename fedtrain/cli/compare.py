"""``fedtrain compare``: runs side by side."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.comparison import (
    ComparedRun,
    comparison_table,
    group_comparison,
    group_rows,
    incomparable,
    read_runs,
    rows,
    write_csv,
    write_groups,
    write_plot,
)

_WIDTH = 160  # of a table that is written to a file or a pipe


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or their reports (report.json).")],
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="What is compared; by default what chooses the best model.", show_default=False),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write a row for each run.")] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups", metavar="FILE", help="Also write a row for each run and group of test records, as CSV."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Also draw them against epsilon, rounds and bytes (.png or .svg)."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print runs side by side: what each reached, guarantees and cost.

    Only reports are read. A run with other test records than the first is named, and is not in the picture.
    """
    with output(as_json, quiet) as out:
        found = read_runs(runs, metric=metric)
        different = incomparable(found)
        if csv is not None:
            write_csv(csv, found)
        if groups is not None:
            write_groups(groups, found)
        if plot is not None:
            write_plot(plot, [run for run in found if run.label not in different])
        if as_json:
            out.answer({"runs": rows(found), "groups": group_rows(found), "incomparable": different})
        else:
            show(found)


def show(runs: Sequence[ComparedRun]) -> None:
    """Print a table of runs and one of their groups, and which of them cannot be compared with the first."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(comparison_table(runs), highlight=False, markup=False)
    if (groups := group_comparison(runs)) is not None:
        console.print()
        console.print(groups.table, highlight=False, markup=False)
        for note in groups.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
    for label, reason in incomparable(runs).items():
        console.print(f"not comparable: {label}: {reason}", highlight=False, markup=False, soft_wrap=True)
