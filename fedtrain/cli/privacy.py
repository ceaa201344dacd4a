"""``fedtrain privacy plan``: what an experiment would guarantee and spend, before anyone trains."""

from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet, Settings
from fedtrain.cli.simulate import checked, demo
from fedtrain.config import read_flat

privacy = typer.Typer(name="privacy", help="What an experiment would guarantee and spend.", no_args_is_help=True)


@privacy.callback()
def _group() -> None:
    """Keep ``plan`` a command of its own name, though it is the only one."""


@privacy.command()
def plan(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="TOML file of the experiment; the demo if unset. Its data need not be here."
        ),
    ] = None,
    settings: Settings = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw epsilon over the rounds into a PNG.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what an experiment would guarantee, the noise that it takes, and what it spends. Nothing is trained."""
    with output(as_json, quiet) as out:
        file = demo() if config is None else config
        experiment = checked(read_flat(file, settings), config)
        out.starting()
        from fedtrain.report.plan import summarize_plan  # noqa: PLC0415 - the accountants take a second to import

        summary = summarize_plan(experiment)
        if plot is not None:
            from fedtrain.report.plots import plan_png  # noqa: PLC0415 - matplotlib takes a second to import

            plan_png(plot, [(point.rounds, point.epsilon) for point in summary.rounds[:-1]], summary.budget)
        if config is None:
            out.say(f"Without --config, this is the demo, {file}.\n")
        out.result({"config": str(file), **summary.as_data()}, [str(summary)])
