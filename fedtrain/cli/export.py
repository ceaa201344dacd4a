"""``fedtrain export``: a trained model in public formats, with a model card."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.report.numbers import printable


def export(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="A new or empty folder; by default export in the run folder.",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        Literal["final", "best"], typer.Option("--model", help="The weights after the last round, or the best ones.")
    ] = "final",
    onnx: Annotated[
        bool | None,
        typer.Option(
            "--onnx/--no-onnx",
            help="Write the network as an ONNX graph; by default where its packages are installed and it can be.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model with a model card: safetensors, and ONNX where it can be.

    Everything in the card is of the report, which is audited first: a report that is refuted has no card. The code of a
    task of your own, which the report names, is run: use run folders that you trust.
    """
    with output(as_json, quiet) as told:
        told.starting()
        from fedtrain.api import load_run  # noqa: PLC0415 - torch takes seconds to import
        from fedtrain.export import export as exported  # noqa: PLC0415 - likewise

        sys.path.append(str(Path.cwd()))
        found = exported(load_run(run), run / "export" if out is None else out, which=which, onnx=onnx)
        lines = [f"{printable(str(found.folder))}: {', '.join(found.files)}"]
        if found.note:
            lines.append(printable(found.note))
        told.done({"folder": str(found.folder), "files": list(found.files), "note": found.note}, lines)
