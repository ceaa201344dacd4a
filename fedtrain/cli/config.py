"""``fedtrain config check``: all that is wrong with an experiment, before anything that takes time is imported."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet, Settings
from fedtrain.config import from_flat, read_flat
from fedtrain.config.checking import missing_files, problems
from fedtrain.config.loading import Flat
from fedtrain.errors import ConfigError
from fedtrain.report.numbers import printable

if TYPE_CHECKING:
    from fedtrain.report.plan import PlanSummary

config = typer.Typer(name="config", help="Check the configuration of an experiment.", no_args_is_help=True)


@config.callback()
def _group() -> None:
    """Keep ``check`` a command of its own name, though it is the only one."""


@config.command()
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of the experiment.")],
    settings: Settings = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Also show what it would guarantee and spend, as privacy plan does.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check an experiment: each field that cannot be used, and what is allowed. Exits with 2 if there is one.

    Neither records nor models are opened, and nothing is trained.
    """
    with output(as_json, quiet) as out:
        flat = read_flat(file, settings)
        found = problems(flat)
        missing = () if found else missing_files(from_flat(flat))
        summary = _planned(flat) if plan and not found else None
        if as_json:
            out.answer(
                {
                    "valid": not found,
                    "problems": [asdict(problem) for problem in found],
                    "missing": list(missing),
                    "plan": None if summary is None else summary.as_data(),
                }
            )
        elif not found and not quiet:
            lines = [f"{file}: ok", *(f"warning: {text}" for text in missing)]
            sys.stdout.write("\n".join([*lines, *([] if summary is None else ["", str(summary)])]) + "\n")
        if found and not as_json:
            count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
            listed = "\n".join(map(str, found))
            # It quotes the file, which somebody else may have written.
            sys.stderr.write(printable(f"error: {file} has {count}:\n{listed}", kept="\n") + "\n")
    raise typer.Exit(ConfigError.exit_status if found else 0)


def _planned(flat: Flat) -> "PlanSummary | None":
    """Return the plan of an experiment; ``None`` for one that guarantees nothing."""
    experiment = from_flat(flat)
    from fedtrain.privacy.mechanisms import mechanism_of  # noqa: PLC0415 - as below

    if not mechanism_of(experiment).private:
        return None
    from fedtrain.report.plan import summarize_plan  # noqa: PLC0415 - the accountants take a second to import

    return summarize_plan(experiment)
