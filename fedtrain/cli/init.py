"""``fedtrain init``: a file with every field of an experiment, commented, to begin with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet, Settings
from fedtrain.cli.simulate import checked, demo
from fedtrain.config import read_flat
from fedtrain.config.commented import commented
from fedtrain.errors import UsageError
from fedtrain.files import write_atomic

_HEAD = "An experiment, which runs as it is: fedtrain simulate -c FILE. Begun with fedtrain's demo, handwritten digits."


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("experiment.toml"),
    settings: Settings = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an experiment that runs as it is, with a comment on every field.

    Its values are those of the demo. Those of --set take their place.
    """
    with output(as_json, quiet) as out:
        if os.path.lexists(file):  # a link that leads nowhere is there, too
            raise UsageError(f"{file} is there already; remove it, or name another file")
        values = read_flat(demo(), settings)
        checked(values, demo())
        write_atomic(file, commented(values, head=_HEAD).encode())
        out.done({"file": str(file)}, [f"wrote {file}", f"to run it: fedtrain simulate -c {file}"])
