"""``fedtrain client``: what a site does on its own node."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedtrain.cli.approving import approve
from fedtrain.cli.running import reporting_errors, say, until_stopped
from fedtrain.cli.streams import answering
from fedtrain.data import WIDE, DataInfo, Split, format_histogram, lengths_of
from fedtrain.data.schema import drafted_lines
from fedtrain.data.site import SiteData, SiteRecords, begins_ledger, open_site, read_site_data
from fedtrain.data.types import Columns
from fedtrain.deployment.processes import is_running, only_one
from fedtrain.deployment.supernode import check_node, serve
from fedtrain.files import write_atomic
from fedtrain.ledger import read_policy
from fedtrain.machines import NodeFolder
from fedtrain.machines.bundles import approved
from fedtrain.machines.connection import read_connection
from fedtrain.machines.request import make_keys
from fedtrain.machines.rotation import rotate as rotate_keys
from fedtrain.machines.site_file import filled_in
from fedtrain.progress import shown
from fedtrain.report.numbers import printable

client = typer.Typer(name="client", help="Take part in a federation, on a node of your own.", no_args_is_help=True)
client.command()(approve)


@client.command()
def init(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The folder that the operator gave you.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="The records: a file, a folder or a pattern, for site.toml.")
    ] = None,
    schema: Annotated[Path | None, typer.Option("--schema", help="Schema file of a table, for site.toml.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names of the classes, comma-separated, for site.toml.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="Delta of the budget, below 1 / number of records, for site.toml.")
    ] = None,
) -> None:
    """Make the node's keys, which stay here, and the request for the operator; fill in the site file."""
    with reporting_errors():
        node = NodeFolder.open(kit)
        given = any(value is not None for value in (data, schema, classes, delta))
        filled = filled_in(node.site, data=data, schema=schema, classes=classes, delta=delta) if given else None
        request = make_keys(node)
        if filled is not None:
            write_atomic(node.site, filled)
        sys.stdout.write(
            f"node {node.name}, client {node.client} of federation {node.federation.id}\n"
            f"operator's key: {node.federation.operator.key_id[:32]} (compare it with what the operator says)\n"
            f"fingerprint of this node's keys: {request.fingerprint} (read it out to the operator)\n"
            f"give the operator {node.request}\n"
            f"then {'look at' if given else 'edit'} {node.site}, and run: fedtrain doctor {kit}\n"
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


def _say(line: str) -> None:
    # It may quote what another machine said.
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
