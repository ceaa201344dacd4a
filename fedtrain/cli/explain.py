"""``fedtrain explain``: what a trained model's outputs depend on, on central test records."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedtrain.cli.running import output, require_not_of_run
from fedtrain.cli.settings import Json, Quiet
from fedtrain.errors import UsageError
from fedtrain.files import write_atomic
from fedtrain.report.numbers import printable

_FIRST = 10


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", help="Test records that are explained one by one, 1 to 50.")
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write the page there; by default explanation.html in the run folder.",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        Literal["final", "best"], typer.Option("--model", help="The weights after the last round, or the best ones.")
    ] = "final",
    public: Annotated[
        bool, typer.Option("--public", help="State that the test records are public: the page then has no warning.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Explain what a trained model's outputs depend on, on central test records alone.

    Images, sounds and texts: integrated gradients and occlusion. Tables: permutation importance. The code of a task of
    your own, which the report names, is run: use run folders that you trust.
    """
    with output(as_json, quiet) as told:
        file = run / "explanation.html" if out is None else out
        require_not_of_run(file, run)
        if out is not None and not out.parent.is_dir():
            raise UsageError(f"--out {out}: there is no such folder; make it first, or name another file")
        told.starting()
        from fedtrain.api import load_run  # noqa: PLC0415 - torch takes seconds to import
        from fedtrain.explanation import explain as explained  # noqa: PLC0415 - likewise
        from fedtrain.explanation import render_explanation  # noqa: PLC0415

        sys.path.append(str(Path.cwd()))
        found = explained(load_run(run), examples=examples, which=which, public=public)
        write_atomic(file, render_explanation(found).encode())
        lines = [f"{printable(str(file))}: values are of {printable(found.over)}"]
        lines += [
            f"  {printable(each.column)}: {printable(found.metric)} is worse by {each.worse:.4f}"
            for each in found.importance[:_FIRST]
        ]
        lines += [printable(note) for note in (found.completeness, *found.notes) if note]
        if not found.public:
            shows = "was measured on test records" if found.importance else "shows test records"
            lines.append(
                f"warning: the page {shows}, and nothing says that they are public: no epsilon covers them. Give it "
                "only to those who may see them, or state with --public that everybody may"
            )
        told.done({"file": str(file), **found.as_json()}, lines)
