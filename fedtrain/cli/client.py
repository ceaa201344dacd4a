"""``fedtrain client``: what a site does on its own node."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.approving import approve
from fedtrain.cli.client_data import data as show_data
from fedtrain.cli.running import output, until_stopped
from fedtrain.cli.settings import Json, JsonLines, Quiet
from fedtrain.deployment.processes import is_running, only_one
from fedtrain.deployment.supernode import check_node, serve
from fedtrain.errors import SiteError
from fedtrain.files import write_atomic
from fedtrain.health.keys import ending
from fedtrain.machines import NodeFolder, read_directions
from fedtrain.machines.bundles import approved
from fedtrain.machines.connection import read_connection
from fedtrain.machines.following import follow as follow_directions
from fedtrain.machines.request import Request, make_keys
from fedtrain.machines.rotation import rotate as rotate_keys
from fedtrain.machines.site_file import filled_in
from fedtrain.report.numbers import printable

client = typer.Typer(name="client", help="Take part in a federation, on a node of your own.", no_args_is_help=True)
client.command()(approve)
client.command()(show_data)


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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the node's keys, which stay here, and the request for the operator; fill in the site file."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        given = any(value is not None for value in (data, schema, classes, delta))
        filled = filled_in(node.site, data=data, schema=schema, classes=classes, delta=delta) if given else None
        request = make_keys(node)
        if filled is not None:
            write_atomic(node.site, filled)
        out.say(f"node {node.name}, client {node.client} of federation {node.federation.id}")
        out.result(
            _keys(node, request),
            [
                f"operator's key: {node.federation.operator.key_id[:32]} (compare it with what the operator says)",
                f"fingerprint of this node's keys: {request.fingerprint} (read it out to the operator)",
            ],
        )
        verb = "look at" if given else "edit"
        out.say(f"give the operator {node.request}", f"then {verb} {node.site}, and run: fedtrain doctor {kit}")


def _keys(node: NodeFolder, request: Request) -> dict[str, object]:
    return {
        "name": node.name,
        "client": node.client,
        "federation": node.federation.id,
        "operator": node.federation.operator.key_id,
        "fingerprint": request.fingerprint,
        "request": str(node.request),
    }


@client.command()
def rotate(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give the node new keys, sign its ledgers with them, and delete the old keys. The node must not be up."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        with only_one(node.path):
            request = rotate_keys(node)
        out.say(f"node {node.name}, client {node.client} of federation {node.federation.id} has new keys")
        line = f"fingerprint of this node's keys: {request.fingerprint} (read it out to the operator)"
        out.result(_keys(node, request), [line])
        out.say(
            f"give the operator {node.request}, to run: fedtrain provision admit --rotate FEDERATION {node.name} "
            f"{node.request.name}",
            f"the ledgers go on where they were; signed with the old key they are in {node.path / 'retired'}",
            f"then run: fedtrain client up {kit}",
        )


@client.command()
def follow(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    directions: Annotated[Path, typer.Argument(metavar="DIRECTIONS", help="The directions.json of the operator.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow the server to another address or CA, as the operator signed it. A node that is up does so by itself."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        found = read_directions(directions, node.federation)
        if found is None:
            raise SiteError(f"there is no {directions}: the operator has it, in the folder server/")
        new = follow_directions(node, found[1]) is not None
        federation = NodeFolder.open(kit).federation
        former = {one.address: f"{one.until:%Y-%m-%d}" for one in federation.former}
        out.done(
            {"directions": federation.directions, "address": federation.address, "former": former, "new": new},
            [
                f"directions version {federation.directions}: the server is at {federation.address}",
                "they are new to this node" if new else "this node has them already",
                *(f"until {until} it also tries {address}" for address, until in former.items()),
            ],
        )


def _say(line: str) -> None:
    # It may quote what another machine said.
    sys.stdout.write(printable(line, kept="\t") + "\n")


@client.command()
def status(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show whether the node is up and connected, and what it would run. Nothing leaves the node."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        running, connection = is_running(node.path), read_connection(node)
        bundles, now = approved(node.approved), datetime.now(UTC)
        soon = ending([("the CA", node.ca)], now)
        state = "not up" if not running else "not connected" if connection is None else connection.state
        reason = "" if connection is None or state != "not connected" else connection.reason
        if as_json:
            out.answer(
                {
                    "name": node.name,
                    "client": node.client,
                    "federation": node.federation.id,
                    "address": node.federation.address,
                    "directions": node.federation.directions,
                    "former": [route.address for route in node.federation.routes(now)[1:]],
                    "ending": soon,
                    "state": state,
                    "reason": reason,
                    "since": None if connection is None or not running else connection.since,
                    "seen": None if connection is None else connection.seen,
                    "bundles": [bundle.sha256 for bundle in bundles],
                }
            )
            return
        _say(f"node {node.name}, client {node.client} of the federation at {node.federation.address}: {state}")
        for route in node.federation.routes(now)[1:]:
            _say(f"it also tries {route.address}, where the server was")
        for line in soon:
            _say(f"warning: {line}")
        if reason:
            _say(reason)
        if connection is not None and running:
            _say(f"since {_moment(connection.since)}")
        if connection is not None and connection.seen is not None and state != "connected":
            _say(f"connected last: {_moment(connection.seen)}")
        if not running:
            out.say(f"to connect it: fedtrain client up {kit}")
        _say(f"bundles approved: {len(bundles)}; logs: {node.logs}")
        out.say(f"what its ledgers have spent: fedtrain budget {kit}")


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


@client.command()
def up(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")],
    as_json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Connect to the federation's server, and take part in its runs until stopped."""
    with output(as_json, quiet) as out:
        node = NodeFolder.open(kit)
        out.news(f"{node.name} is starting, to connect to {node.federation.address}")
        from fedtrain.flower.admission import ask, leave  # noqa: PLC0415 - Flower takes a second to import

        with only_one(node.path):
            ready = check_node(node)
            if not ready.bundles:
                out.news(f"no bundle is approved, so that every run is refused: fedtrain client approve {kit} BUNDLE")
            until_stopped(node.logs, lambda processes: serve(node, processes, out.news, ask=ask, leave=leave), out.news)
