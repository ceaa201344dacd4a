"""``fedtrain data``: what a person does with a data set before training."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.config.loading import explain
from fedtrain.errors import UsageError
from fedtrain.files import write_atomic
from fedtrain.report.numbers import printable

data = typer.Typer(
    name="data",
    help="Prepare a data set: the schema file of a table, texts without names and numbers.",
    no_args_is_help=True,
)


@data.callback()
def _group() -> None:
    """Prepare a data set: the schema file of a table, texts without names and numbers."""


@data.command()
def schema(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file, or a Parquet file (.parquet).")],
    target: Annotated[str, typer.Option("--target", metavar="COLUMN", help="The column that is predicted.")],
    delimiter: Annotated[str, typer.Option("--delimiter", help="Between two values of a CSV file.")] = ",",
    decimal: Annotated[
        Literal[".", ","], typer.Option("--decimal", help="Between the whole and the fraction of a number.")
    ] = ".",
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Whether the first row of a CSV file names the columns.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="The schema file; without it, the draft is printed.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draft the schema file of a table, for you to edit. What came from the data is marked: it may not be public."""
    with output(as_json, quiet) as told:
        from fedtrain.data.drafting import draft_schema  # noqa: PLC0415 - pyarrow takes a second to import
        from fedtrain.data.schema import CsvFormat  # noqa: PLC0415

        try:
            form = CsvFormat(delimiter=delimiter, decimal=decimal, header=header)
        except ValidationError as error:
            raise UsageError(explain(error)) from error
        if out is not None and out.exists():
            raise UsageError(f"{out} is there already; remove it, or name another file with --out")
        draft = draft_schema(file, target=target, form=form)
        if out is not None:
            write_atomic(out, draft.text.encode())
        if as_json:
            told.answer(
                {
                    "file": None if out is None else str(out),
                    "schema": draft.text,
                    "drafted": list(draft.found),
                    "passed_over": list(draft.passed_over),
                }
            )
        elif out is None:
            sys.stdout.write(draft.text)
        else:
            told.say(f"wrote {out}")
        if draft.found:
            sys.stderr.write(
                f"warning: bounds or categories of {len(draft.found)} columns came from the data. Those of private "
                "data are not private any more once they are in a schema: put public ones in their place\n"
            )
        if draft.passed_over:
            sys.stderr.write(f"warning: passed over: {', '.join(draft.passed_over)}\n")


@data.command()
def deidentify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file (.csv) or a Parquet file (.parquet).")],
    column: Annotated[str, typer.Option("--column", metavar="NAME", help="The column of texts.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The new file, of the same kind; nothing is overwritten.")
    ],
    delimiter: Annotated[str, typer.Option("--delimiter", help="Between two values of a CSV file.")] = ",",
    entity: Annotated[
        list[str] | None,
        typer.Option(
            "--entity",
            metavar="ENTITY",
            help="What is replaced, over the default policy. Repeatable.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="An installed spaCy model, or its folder, which finds names and places.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str, typer.Option("--language", metavar="CODE", help="The language of the texts, that of the model.")
    ] = "en",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replace e-mail addresses, numbers and, with a model, names in a column of texts. It is no anonymisation."""
    with output(as_json, quiet) as told:
        from fedtrain.deidentification import deidentify as deidentified  # noqa: PLC0415 - only this command needs it

        done = deidentified(
            file,
            out,
            column=column,
            delimiter=delimiter,
            entities=tuple(entity or ()),
            model=model,
            language=language,
        )
        notes = [] if model else ["names and places stay: only a spaCy model finds them (--model), and none was named"]
        notes += [
            "nicknames, ages, misspelt names, numbers of an unusual form and rare facts stay, as all that is not found"
        ]
        notes += ["this is no anonymisation and no differential privacy: look at the new file before you use it"]
        lines = [f"wrote {printable(str(out))}: {done.changed:,} of {done.rows:,} texts are changed"]
        lines += [f"  {name}: {count:,}" for name, count in done.replaced.items()]
        told.done(
            {
                "file": str(out),
                "rows": done.rows,
                "changed": done.changed,
                "replaced": done.replaced,
                "language": language,
                "model": model,
                "notes": notes,
            },
            [*lines, *notes],
        )
