"""``fedtrain client init``: make the node's keys, and its request to be admitted."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.machines import NodeFolder
from fedtrain.machines.request import make_keys


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
