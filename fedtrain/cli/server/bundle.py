"""``fedtrain server bundle``: the code that sites approve."""

import sys
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.files import write_atomic


def bundle(
    app: Annotated[Path | None, typer.Option("--app", help="Folder of another Flower app than fedtrain's own.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("app.fab"),
) -> None:
    """Write the bundle that a run of the app would send to the nodes, for their sites to approve."""
    with reporting_errors():
        from fedtrain.flower.app import find_app  # noqa: PLC0415 - Flower takes a second to import
        from fedtrain.flower.bundle import build_bundle  # noqa: PLC0415 - likewise

        data = build_bundle(find_app(app))
        write_atomic(out, data)
        sys.stdout.write(f"{out}, {len(data)} bytes\nSHA-256 {sha256(data).hexdigest()}\n")
