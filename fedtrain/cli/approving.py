"""``fedtrain client approve``: read what a bundle holds, and let a node run it."""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.pager import page
from fedtrain.cli.running import output
from fedtrain.cli.settings import Json, Quiet
from fedtrain.errors import ConfigError, SiteError
from fedtrain.ledger import read_policy
from fedtrain.machines import NodeFolder
from fedtrain.machines.bundles import Bundle, approve_bundle, approved, kept, withdraw
from fedtrain.machines.reading import Reading, called, read_bundle
from fedtrain.report.numbers import printable


def approve(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="The bundle, a .fab file; without it, list those approved."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking, and without showing the code.")] = False,
    diff: Annotated[
        bool,
        typer.Option(
            "--diff", help="Show what changed since the bundle approved last, and all of the code only without one."
        ),
    ] = False,
    withdrawn: Annotated[
        str | None, typer.Option("--withdraw", metavar="SHA256", help="Allow a bundle no longer.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a bundle, its code and what changed in it, and let this node run it. A node runs no other."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        if withdrawn is not None:
            approval = withdraw(node.approved, withdrawn)
            line = f"{called(approval.name)} ({approval.sha256}) is not approved any more; restart a node that runs it"
            out.done({"withdrawn": asdict(approval)}, [printable(line)])
            return
        if bundle is None:
            known = approved(node.approved)
            lines = [printable(f"{approval.sha256}  {approval.when}  {called(approval.name)}") for approval in known]
            out.result({"approved": [asdict(approval) for approval in known]}, lines)
            return
        if as_json and not yes:
            raise ConfigError("not approved: with --json nobody is asked; look at the bundle, and repeat with --yes")
        # Read once: what is shown and what is approved are the same bytes.
        found = Bundle.read(_read(bundle))
        before, own = kept(node.approved, like=found), _own_bundle()
        reading = read_bundle(
            found,
            own=own,
            before=before,
            installed=_installed,
            width=shutil.get_terminal_size((100, 24)).columns,
        )
        summary = [*reading.summary, *_known(node, found, before)]
        if not yes:
            page(summary, [*_experiment(node), *_content(reading, before, code=not diff or before is None)])
        if not (yes and out.silent):  # a person who is asked has to see it
            # Below what the bundle says, and on a terminal after the pager: nothing of it can pass for this.
            _say(summary)
            if yes and diff:
                _say(_content(reading, before, code=False))
        if not yes and not _confirmed():
            raise ConfigError("not approved")
        approve_bundle(node.approved, found, now=datetime.now(UTC))
        answer = {"name": found.name, "sha256": found.sha256, "unmodified": found.data == own.data, "summary": summary}
        out.done(answer, [f"approved: {found.sha256}"])


def _own_bundle() -> Bundle:
    from fedtrain.flower.app import build_bundle, own_app  # noqa: PLC0415 - Flower takes a second to import

    return Bundle.read(build_bundle(own_app()))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a module of Python's own that has no file
        return True


def _known(node: NodeFolder, bundle: Bundle, before: Bundle | None) -> list[str]:
    """Say what was approved before."""
    same = [approval for approval in approved(node.approved) if approval.sha256 == bundle.sha256]
    if same:
        return [f"this very bundle was approved on {same[0].when}"]
    if before is None:
        return ["there is no bundle to compare with: none was approved, or its copy in bundles/ is gone or damaged"]
    return [f"compared with {called(before.name)}, SHA-256 {before.sha256[:16]}, which was approved before"]


def _experiment(node: NodeFolder) -> list[str]:
    """Say what decides of the experiment, which comes with each run."""
    lines = ["the experiment comes with each run; what pyproject.toml has of one are the fields, and their defaults"]
    try:
        policy = read_policy(node.site)
    except SiteError as error:
        return [*lines, f"warning: what this site allows is not known: {error}"]
    return [
        *lines,
        (
            f"{node.site.name} of this site allows: modes {', '.join(policy.modes)}; epsilon {policy.epsilon:g} at "
            f"delta {policy.delta:g} in all; a noise multiplier of {policy.minimum_noise:g} at least; tasks "
            f"{'any' if policy.tasks is None else ', '.join(policy.tasks)}"
        ),
    ]


def _content(reading: Reading, before: Bundle | None, *, code: bool) -> list[str]:
    lines = []
    if before is not None:
        lines += ["", "what changed since it was approved:" if reading.changes else "no file has changed"]
        lines += reading.changes
    if code:
        lines += ["", "all of the code:", *reading.code, ""]
    return lines


def _confirmed() -> bool:
    try:
        return typer.confirm("let this code train on this site's records?")
    except typer.Abort as error:
        raise ConfigError("not approved: nobody answered; look at the bundle, and repeat with --yes") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(f"cannot read the bundle {path}: {error.strerror or error}") from error


def _say(lines: Iterable[str]) -> None:
    # A bundle is somebody else's: its names and text must not write to the terminal what they like.
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.flush()
