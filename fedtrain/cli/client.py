"""``fedtrain client``: what a site does on its own node."""

import difflib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedtrain.cli.running import reporting_errors, say, until_stopped
from fedtrain.cli.streams import answering
from fedtrain.data import WIDE, DataInfo, Split, format_histogram, lengths_of
from fedtrain.data.schema import drafted_lines
from fedtrain.data.site import SiteData, SiteRecords, begins_ledger, open_site, read_site_data
from fedtrain.data.types import Columns
from fedtrain.deployment.processes import is_running, only_one
from fedtrain.deployment.supernode import check_node, serve
from fedtrain.errors import ConfigError, SiteError
from fedtrain.ledger import read_policy
from fedtrain.machines import NodeFolder
from fedtrain.machines.bundles import Bundle, approve_bundle, approved, kept, withdraw
from fedtrain.machines.connection import read_connection
from fedtrain.machines.request import make_keys
from fedtrain.machines.rotation import rotate as rotate_keys
from fedtrain.progress import shown
from fedtrain.report.numbers import printable

client = typer.Typer(name="client", help="Take part in a federation, on a node of your own.", no_args_is_help=True)


@client.command()
def init(kit: Annotated[Path, typer.Argument(metavar="KIT", help="The folder that the operator gave you.")]) -> None:
    """Make the node's keys, which stay here, and the request for the operator."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        request = make_keys(node)
        sys.stdout.write(
            f"node {node.name}, client {node.client} of federation {node.federation.id}\n"
            f"operator's key: {node.federation.operator.key_id[:32]} (compare it with what the operator says)\n"
            f"fingerprint of this node's keys: {request.fingerprint} (read it out to the operator)\n"
            f"give the operator {node.request}\n"
            f"then edit {node.site}, and run: fedtrain doctor {kit}\n"
        )


@client.command()
def rotate(kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")]) -> None:
    """Give the node new keys, sign its ledgers with them, and delete the old keys. The node must not be up."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        with only_one(node.path):
            request = rotate_keys(node)
        sys.stdout.write(
            f"node {node.name}, client {node.client} of federation {node.federation.id} has new keys\n"
            f"fingerprint of this node's keys: {request.fingerprint} (read it out to the operator)\n"
            f"give the operator {node.request}, to run: fedtrain provision admit --rotate FEDERATION {node.name} "
            f"{node.request.name}\n"
            f"the ledgers go on where they were; signed with the old key they are in {node.path / 'retired'}\n"
            f"then run: fedtrain client up {kit}\n"
        )


@client.command()
def data(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
) -> None:
    """Read the site's records, and show their schema and how many there are of each class. Nothing leaves the node."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        policy, source = read_policy(node.site), read_site_data(node.path)
        with shown():
            records = open_site(source, folder=node.path)
        info, train = records.info, records.train
        lines = [
            f"source: {source.source}{'' if source.path is None else f', {source.path}'}",
            *_columns(source, info),
            f"records: {len(train)} of kind {info.kind}, shape {info.shape}, {train.features.dtype}",
            *filter(None, [lengths_of(train, info)]),
            *_targets(train, info),
            *_rules(records),
        ]
        if source.classes is None and source.target != "number" and source.schema_file is None:
            lines.append(
                "warning: [data] names no classes, and without them nothing is trained: add "
                f'classes = "{", ".join(info.classes)}", or as many as the experiments have, in their order'
            )
        if info.kind == "table" and len(wide := train.wide_columns()[0]):
            lines.append(
                f"warning: {len(wide)} of {info.shape[0]} columns have values beyond {WIDE:g} in size, of which the "
                f"first is {info.feature(int(wide[0]))}: a model hardly learns from such, whatever it spends. Scale "
                "them with the constants that all sites of the experiment use, and never with a mean or bound of your "
                "own records"
            )
        if source.schema_file is not None and (drafted := drafted_lines(Path(source.schema_file))):
            lines.append(
                f"warning: {drafted} lines of the schema file are still marked as drafted from data. Bounds and "
                "categories of private records are not private in a schema: put public ones in their place, and remove "
                "the comments"
            )
        if others := begins_ledger(node.path, train):
            lines.append(
                f"warning: these records have no ledger, and this node has {others} of other records: they would begin "
                "with the whole budget. Where the same people are in both, since a schema, columns, classes or a few "
                "records were changed, what was spent adds up: take it off [budget], or go back to the decoding of "
                "before"
            )
        if policy.delta * len(train) >= 1:
            lines.append(
                f"warning: [budget] delta = {policy.delta:g} is not below 1 / {len(train)}: it would allow "
                "publishing a record"
            )
        sys.stdout.write("\n".join([*lines, "nothing of this left the node"]) + "\n")


def _targets(train: Split, info: DataInfo) -> list[str]:
    """Say how many records have each class or label, or between which numbers the targets are."""
    match info.target.kind:
        case "class":
            return [format_histogram(np.bincount(train.targets, minlength=len(info.classes))[None], info.classes)]
        case "labels":
            return ["records with each label:", format_histogram(train.targets.sum(axis=0)[None], info.classes)]
        case "number":
            return [f"target: numbers from {train.targets.min():g} to {train.targets.max():g}"]


def _rules(records: SiteRecords) -> list[str]:
    """Say how often the rules of a schema file were needed, and where most categories are not listed."""
    lines = []
    for found in records.rules:
        counts = {"missing": found.missing, "clipped": found.clipped, "not listed": found.unseen}
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        lines.append(f"column {found.column}: {said}, of {len(records.train):,}")
        if 2 * found.unseen > len(records.train):
            lines.append(
                f"warning: most values of column {found.column} are none of those that the schema file lists, and "
                "count as one category: are they written in another way?"
            )
    return lines


def _columns(source: SiteData, info: DataInfo) -> list[str]:
    """Say which columns are read, of a source that has columns."""
    if isinstance(info.features, Columns) and info.features.schema is not None:
        return [f"schema: {source.schema_file}, data.schema_digest = {info.features.schema}"]
    if source.source != "parquet":
        return []
    if source.sample_rate is not None:
        read = source.audio_column or "the first column of files"
    else:
        read = source.feature_columns or source.text_column or source.image_column or "the first image column"
    return [f"columns: {read}; label: {source.label_columns or source.label_column}"]


@client.command()
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


@client.command()
def status(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Show whether the node is up and connected, and what it would run. Nothing leaves the node."""
    with reporting_errors(), answering(as_json) as answer:
        node = NodeFolder.open(kit)
        running, connection = is_running(node.path), read_connection(node)
        bundles = approved(node.approved)
        state = "not up" if not running else "not connected" if connection is None else connection.state
        reason = "" if connection is None or state != "not connected" else connection.reason
        if as_json:
            answer(
                {
                    "name": node.name,
                    "client": node.client,
                    "federation": node.federation.id,
                    "address": node.federation.address,
                    "state": state,
                    "reason": reason,
                    "since": None if connection is None or not running else connection.since,
                    "seen": None if connection is None else connection.seen,
                    "bundles": [bundle.sha256 for bundle in bundles],
                }
            )
            return
        _say(f"node {node.name}, client {node.client} of the federation at {node.federation.address}: {state}")
        if reason:
            _say(reason)
        if connection is not None and running:
            _say(f"since {_moment(connection.since)}")
        if connection is not None and connection.seen is not None and state != "connected":
            _say(f"connected last: {_moment(connection.seen)}")
        if not running:
            _say(f"to connect it: fedtrain client up {kit}")
        _say(f"bundles approved: {len(bundles)}; logs: {node.logs}")
        _say(f"what its ledgers have spent: fedtrain budget {kit}")


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


@client.command()
def up(kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")]) -> None:
    """Connect to the federation's server, and take part in its runs until stopped."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        say(f"{node.name} is starting, to connect to {node.federation.address}")
        from fedtrain.flower.admission import ask  # noqa: PLC0415 - Flower takes a second to import

        with only_one(node.path):
            ready = check_node(node)
            if not ready.bundles:
                say(f"no bundle is approved, so that every run is refused: fedtrain client approve {kit} BUNDLE")
            until_stopped(node.logs, lambda processes: serve(node, processes, say, ask))
