"""``fedtrain client up``: keep the node in service."""

from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.cli.serving import say, until_stopped
from fedtrain.deployment.processes import only_one
from fedtrain.deployment.supernode import check_node, serve
from fedtrain.machines import NodeFolder


def up(kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")]) -> None:
    """Connect to the federation's server, and take part in its runs until stopped."""
    from fedtrain.flower.admission import ask  # noqa: PLC0415 - Flower takes a second to import

    with reporting_errors():
        node = NodeFolder.open(kit)
        with only_one(node.path):
            ready = check_node(node)
            if not ready.member:
                say(f"no membership with its keys has reached this node: it connects once {node.request} is admitted")
            if not ready.bundles:
                say(f"no bundle is approved, so that every run is refused: fedtrain client approve {kit} BUNDLE")
            until_stopped(node.logs, lambda processes: serve(node, processes, say, ask))
