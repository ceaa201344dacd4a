"""``fedtrain doctor``: whether a machine is ready, and if not, what to do."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.errors import SiteError
from fedtrain.health import Check
from fedtrain.machines import NodeFolder, ServerFolder
from fedtrain.report.numbers import printable

_NAME = 21  # letters: a data set and the beginning of its digest


def doctor(
    folder: Annotated[Path, typer.Argument(help="Folder of a node or of a server.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a node's or a server's machine: each line says ok, or what to do. Exits with 1 if anything fails.

    Nothing is charged, and nothing of the data leaves the machine.
    """
    failed, found = False, []
    with output(as_json, quiet) as out:
        for check in _checks(folder):
            failed |= check.status == "fails"
            found.append(asdict(check))
            if not as_json and not (quiet and check.status == "ok"):
                sys.stdout.write(_line(check) + "\n")
                sys.stdout.flush()
        if as_json:
            out.answer({"ok": not failed, "checks": found})
    raise typer.Exit(int(failed))


def _checks(folder: Path) -> Iterator[Check]:
    # Flower, torch and Opacus take seconds to import.
    if _is_node(folder):
        from fedtrain.flower.admission import ask  # noqa: PLC0415
        from fedtrain.health.node import node_checks  # noqa: PLC0415

        return node_checks(NodeFolder.open(folder), ask)
    from fedtrain.health.server import server_checks  # noqa: PLC0415

    return server_checks(ServerFolder.open(folder))


def _is_node(folder: Path) -> bool:
    try:
        return (folder / "node.json").exists()
    except OSError as error:
        raise SiteError(
            f"cannot look into {folder}: {error.strerror or error}; run this as the user who owns it (sudo -u USER ...)"
        ) from error


def _line(check: Check) -> str:
    # It may quote a file or an answer that somebody else wrote.
    detail = printable(check.detail, kept="\n").replace("\n", "\n" + " " * (_NAME + 8))
    return f"{check.status:<5} {printable(check.name):<{_NAME}}  {detail}"
