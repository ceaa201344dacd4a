"""``fedtrain server up``: keep the server in service."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.deployment import ServerFolder
from fedtrain.deployment.processes import Processes, Stopped, only_one, stopped_by_signals
from fedtrain.deployment.superlink import Service, check, serve


def up(
    folder: Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder.")],
    port: Annotated[int, typer.Option("--port", help="Port of the SuperLink, on this machine's loopback.")] = 9091,
) -> None:
    """Serve the federation's nodes until stopped."""
    with reporting_errors():
        server = ServerFolder.open(folder)
        check(server)
        with only_one(server.path):
            try:
                with stopped_by_signals(), Processes(server.logs) as processes:
                    serve(Service(server=server, port=port), processes, _say)
            except Stopped:
                _say("stopped")


def _say(line: str) -> None:
    sys.stdout.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}\n")
    sys.stdout.flush()
