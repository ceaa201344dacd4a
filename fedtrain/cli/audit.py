"""``fedtrain audit``: check a report as a third party."""

import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedtrain.audit import EXIT_STATUS, Verdict, audit_bytes, lies_in_run_folder
from fedtrain.audit.verdict import render_audit
from fedtrain.cli.running import output, require_not_of_run
from fedtrain.cli.settings import Json, Quiet
from fedtrain.errors import ReportError, StorageError, UsageError
from fedtrain.files import write_atomic
from fedtrain.trust import Roster

_STYLES = {"holds": "green", "fails": "bold red", "not proven": "yellow"}


def audit(
    report: Annotated[Path, typer.Argument(help="The report, report.json, or the run folder that has it.")],
    ledgers: Annotated[
        list[Path] | None,
        typer.Option("--ledger", metavar="FILE", help="Ledger file that a client gave you. Repeatable."),
    ] = None,
    roster: Annotated[
        Path | None, typer.Option("--roster", metavar="FILE", help="Public keys that you trust, from elsewhere.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write the verdict as a page for a person.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check everything that a report claims about privacy, trusting nothing in it."""
    with output(as_json, quiet) as out:
        if html is not None:
            require_not_of_run(html, report)
        file = report / "report.json" if report.is_dir() else report
        data = _read(file)
        pinned = None if roster is None else Roster.read(roster)
        elsewhere = roster is not None and not lies_in_run_folder(roster)
        files = {str(path): _read(path) for path in ledgers or ()}
        out.starting("computing epsilon takes some seconds")
        try:
            read, verdict = audit_bytes(data, roster=pinned, from_elsewhere=elsewhere, ledgers=files)
        except ReportError as error:
            raise ReportError(f"{file}: {error}") from error
        if html is not None:
            page = render_audit(
                verdict,
                read,
                digest=sha256(data).hexdigest(),
                roster=None if pinned is None else pinned.digest,
                files=len(files),
            )
            try:
                write_atomic(html, page.encode())
            except StorageError as error:  # whose own status stands for a report that is refuted
                raise UsageError(f"--html: {error}") from error
        if as_json:
            out.answer(_as_data(verdict))
        elif not quiet:
            _print(verdict)
    raise typer.Exit(EXIT_STATUS[verdict.outcome])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror or error}") from error


def _as_data(verdict: Verdict) -> dict[str, object]:
    return {
        "exit_status": EXIT_STATUS[verdict.outcome],
        "outcome": verdict.outcome,
        "verdict": verdict.summary,
        "reliance": verdict.reliance,
        "checks": [asdict(found) for found in verdict.checks],
    }


def _print(verdict: Verdict) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for found in verdict.checks:
        # As text, not as markup: details quote the report. What could harm a terminal is no longer in them.
        table.add_row(Text(found.status, style=_STYLES[found.status]), Text(found.name), Text(found.detail))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print()
    console.print(Text(f"What you may rely on: {verdict.reliance}"))
    console.print()
    console.print(Text(verdict.summary, style="bold"))
