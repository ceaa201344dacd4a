"""``fedtrain predict``: what a trained model says of new records."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedtrain.cli.running import output, require_not_of_run
from fedtrain.cli.settings import Quiet
from fedtrain.errors import ConfigError
from fedtrain.files import write_atomic
from fedtrain.report.numbers import printable

_JSON_LINES = ".jsonl"


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    data: Annotated[
        Path, typer.Option("--data", help="Records: .npz, .npy, .csv, .parquet, an image or a folder of images.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write them there: .csv or .jsonl; by default CSV to the screen."),
    ] = None,
    which: Annotated[
        Literal["final", "best"], typer.Option("--model", help="The weights after the last round, or the best ones.")
    ] = "final",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on a line for each record.")] = False,
    quiet: Quiet = False,
) -> None:
    """Predict the targets of new records with a trained model.

    The data that the model was trained on are not needed, and not read. Records of another schema are refused. The code
    of a task of your own, which the report names, is run: use run folders that you trust.
    """
    with output(as_json, quiet) as told:
        if out is not None and out.suffix not in {".csv", _JSON_LINES}:
            raise ConfigError(f"--out {out}: predictions are written as .csv or {_JSON_LINES}")
        if out is not None:
            require_not_of_run(out, run)
        told.starting()
        from fedtrain.api import load_run  # noqa: PLC0415 - torch takes seconds to import
        from fedtrain.prediction import predict as predicted  # noqa: PLC0415 - likewise

        sys.path.append(str(Path.cwd()))
        found = predicted(load_run(run), data, which=which)
        if out is not None:
            text = found.as_json_lines() if out.suffix == _JSON_LINES else found.as_csv()
            write_atomic(out, text.encode())
            told.done({"file": str(out), "records": len(found.records)}, [])
        elif as_json:
            for row in found.rows():
                told.answer(row)
        else:
            # Names are those of the run folder and of files, which somebody else may have written.
            text = found.as_csv()
            sys.stdout.write(printable(text, kept="\r\n") if sys.stdout.isatty() else text)
