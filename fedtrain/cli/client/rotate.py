"""``fedtrain client rotate``: give the node new keys."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.deployment.processes import only_one
from fedtrain.machines import NodeFolder
from fedtrain.machines.rotation import rotate as rotate_keys


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
