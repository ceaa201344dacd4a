"""``fedtrain new``: a folder to begin in."""

from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.scaffold import KINDS, make_app

_LISTED = "; ".join(f"{kind}: {about}" for kind, about in KINDS.items())


def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make. The experiment is named like it.")],
    task: Annotated[str, typer.Option("--task", help=f"What it is of. {_LISTED}.")] = "image",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a folder with an experiment of your own, which runs as it is, and has one file to edit."""
    with output(as_json, quiet) as out:
        made = make_app(folder, task)
        out.done(
            {"folder": str(folder), "files": [str(file) for file in made]},
            [
                *(f"  {file}" for file in made),
                f"\ncd {folder}\nfedtrain simulate -c experiment.toml --out runs/first",
                "\nREADME.md has the next steps.",
            ],
        )
