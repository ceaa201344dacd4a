"""``fedtrain sweep``: a grid of runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.compare import show
from fedtrain.cli.running import failed, output
from fedtrain.cli.settings import Json, Quiet, Settings, Workers
from fedtrain.cli.streams import INTERRUPTED
from fedtrain.comparison import ComparedRun, compared, incomparable, rows, write_csv, write_plot
from fedtrain.config import parse_settings, read_toml
from fedtrain.sweep import Finished, Grid, Point


def sweep(
    config: Annotated[Path, typer.Argument(help="TOML file of the experiment.")],
    over: Annotated[
        list[str], typer.Option("--over", metavar="KEY=VALUE,VALUE", help="A field and its values. Repeatable.")
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the sweep; by default sweeps/NAME.", show_default=False),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment with all combinations of some values, and compare the runs.

    Each run has a folder of its own. The same command goes on after an interrupt, and leaves out what is complete. The
    report of each run says that it is one of so many.
    """
    status = 0
    with output(as_json, quiet) as told:
        sys.path.append(str(Path.cwd()))
        grid = Grid.of({**read_toml(config), **parse_settings(settings or ())}, over)
        told.starting()
        folder = out or Path("sweeps") / str(grid.base.get("name", config.stem))
        try:
            ended = _run(grid, folder, workers=workers, silent=told.silent)
        except KeyboardInterrupt:
            message = f"interrupted; the same command goes on with {folder}"
            raise typer.Exit(failed(told, message, INTERRUPTED)) from None
        without = [run for run in ended if run.how == "failed"]
        for run in without:
            sys.stderr.write(f"error: the run with {run.point.text} failed: {run.error}\n")
        status = 1 if without else 0
        found = _compared(ended)
        if found:
            _write(grid, folder, found)
        if as_json:
            runs = [{"settings": dict(run.point.settings), "folder": str(run.path), "how": run.how} for run in ended]
            told.answer({"runs": runs, "compared": rows(found), "incomparable": incomparable(found)})
        elif found and not quiet:
            show(found)
            sys.stdout.write(f"table: {folder / 'sweep.csv'}\npicture: {folder / 'sweep.svg'}\n{grid.caution}\n")
    raise typer.Exit(status)


def _run(grid: Grid, folder: Path, *, workers: int | None, silent: bool) -> tuple[Finished, ...]:
    from fedtrain.sweep import sweep as run_all  # noqa: PLC0415 - torch takes seconds to import

    def started(point: Point) -> None:
        if not silent:
            sys.stdout.write(f"run {point.number} of {len(grid.points)}: {point.text}\n")
            sys.stdout.flush()

    def ended(run: Finished) -> None:
        if run.how == "found" and not silent:
            sys.stdout.write(f"run {run.point.number} of {len(grid.points)}: {run.point.text}: complete already\n")

    return run_all(grid, folder, screen="none" if silent else "auto", workers=workers, on_start=started, on_end=ended)


def _compared(ended: Sequence[Finished]) -> tuple[ComparedRun, ...]:
    from fedtrain.api import load_run  # noqa: PLC0415 - it takes a second to import

    return tuple(
        compared(run.path.name, load_run(run.path).report, path=str(run.path))
        for run in ended
        if (run.path / "report.json").exists()
    )


def _write(grid: Grid, folder: Path, found: Sequence[ComparedRun]) -> None:
    write_csv(folder / "sweep.csv", found)
    different = incomparable(found)
    drawn = [run for run in found if run.label not in different]
    if any(run.value is not None for run in drawn):
        along = next(
            (key for key in ("privacy.epsilon", "federation.rounds") if key in grid.over), next(iter(grid.over))
        )
        write_plot(folder / "sweep.svg", drawn, series=grid.series(along))
