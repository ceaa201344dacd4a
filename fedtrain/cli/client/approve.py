"""``fedtrain client approve``: look at the code that a run would bring to the node, and allow it."""

import difflib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.errors import ConfigError, SiteError
from fedtrain.machines import NodeFolder
from fedtrain.machines.bundles import Bundle, approve_bundle, approved, kept, withdraw
from fedtrain.report.numbers import printable


def approve(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="The bundle, a .fab file; without it, list those approved."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changed since the bundle approved last.")] = False,
    withdrawn: Annotated[
        str | None, typer.Option("--withdraw", metavar="SHA256", help="Allow a bundle no longer.")
    ] = None,
) -> None:
    """Show what is in a bundle, and let this node run it. A node runs no other."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        if withdrawn is not None:
            approval = withdraw(node.approved, withdrawn)
            _say(f"{approval.name} ({approval.sha256}) is not approved any more; restart a node that runs it")
            return
        if bundle is None:
            for approval in approved(node.approved):
                _say(f"{approval.sha256}  {approval.when}  {approval.name}")
            return
        found = Bundle.read(_read(bundle))
        before = kept(node.approved)
        for line in _content(found, before):
            _say(line)
        if diff:
            for line in _difference(before, found):
                _say(line)
        if not yes and not _confirmed():
            raise ConfigError("not approved")
        approve_bundle(node.approved, found, now=datetime.now(UTC))
        _say(f"approved: {found.sha256}")


def _confirmed() -> bool:
    try:
        return typer.confirm("let this code train on this site's records?")
    except typer.Abort as error:
        raise ConfigError("not approved: nobody answered; look at the bundle, and repeat with --yes") from error


def _content(bundle: Bundle, before: Bundle | None) -> list[str]:
    lines = [f"bundle {bundle.name}", f"SHA-256 {bundle.sha256}"]
    for name, content in sorted(bundle.files.items()):
        known = None if before is None else before.files.get(name)
        note = "" if before is None or known == content else "  new" if known is None else "  changed"
        lines.append(f"{len(content):9}  {name}{note}")
    if before is not None:
        lines += [f"           {name}  gone" for name in sorted(before.files.keys() - bundle.files.keys())]
    lines += [f"warning: {name} is neither source nor text" for name in bundle.unusual]
    return lines


def _difference(before: Bundle | None, bundle: Bundle) -> list[str]:
    if before is None:
        return ["there is no bundle to compare with: none was approved, or its copy in bundles/ is gone or damaged"]
    lines: list[str] = []
    for name in sorted(before.files.keys() | bundle.files.keys()):
        # As bytes, at line feeds alone: what decodes to the same text, or ends lines for Python only, differs too.
        old, new = (one.files.get(name, b"").split(b"\n") for one in (before, bundle))
        titles = (f"approved/{name}".encode(), f"bundle/{name}".encode())
        changed = difflib.diff_bytes(difflib.unified_diff, old, new, *titles, lineterm=b"")
        lines += [line.decode(errors="backslashreplace") for line in changed]
    return lines


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(f"cannot read the bundle {path}: {error.strerror or error}") from error


def _say(line: str) -> None:
    # A bundle is somebody else's: its names and text must not write to the terminal what they like.
    sys.stdout.write(printable(line, kept="\t") + "\n")
