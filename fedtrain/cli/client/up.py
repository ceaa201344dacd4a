"""``fedtrain client up``: keep the node in service."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.deployment import NodeFolder
from fedtrain.deployment.processes import Processes, Stopped, only_one, stopped_by_signals
from fedtrain.deployment.supernode import serve, standing


def up(kit: Annotated[Path, typer.Argument(metavar="KIT", help="The node's folder.")]) -> None:
    """Connect to the federation's server, and take part in its runs until stopped."""
    from fedtrain.flower.admission import ask  # noqa: PLC0415 - Flower takes a second to import

    with reporting_errors():
        node = NodeFolder.open(kit)
        with only_one(node.path):
            known = standing(node)
            if not known.member:
                _say(f"no membership with its keys has reached this node: it connects once {node.request} is admitted")
            if not known.bundles:
                _say(f"no bundle is approved, so that every run is refused: fedtrain client approve {kit} BUNDLE")
            try:
                with stopped_by_signals(), Processes(node.logs) as processes:
                    serve(node, processes, _say, ask)
            except Stopped:
                _say("stopped")


def _say(line: str) -> None:
    sys.stdout.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}\n")
    sys.stdout.flush()
