"""``fedtrain new``: a folder to begin in."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import reporting_errors
from fedtrain.scaffold import KINDS, make_app

_LISTED = "; ".join(f"{kind}: {about}" for kind, about in KINDS.items())


def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make. The experiment is named like it.")],
    task: Annotated[str, typer.Option("--task", help=f"What it is of. {_LISTED}.")] = "image",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Make a folder with an experiment of your own, which runs as it is, and has one file to edit."""
    with reporting_errors():
        made = make_app(folder, task)
        if not quiet:
            listed = "\n".join(f"  {file}" for file in made)
            sys.stdout.write(
                f"{listed}\n\ncd {folder}\nfedtrain simulate -c experiment.toml --out runs/first\n\n"
                "README.md has the next steps.\n"
            )
