"""``fedtrain server up``: keep the server in service."""

from pathlib import Path
from typing import Annotated

import typer

from fedtrain.cli.failing import reporting_errors
from fedtrain.cli.serving import say, until_stopped
from fedtrain.deployment.processes import only_one
from fedtrain.deployment.superlink import Service, check, serve
from fedtrain.errors import ConfigError
from fedtrain.machines import ServerFolder


def up(
    folder: Annotated[Path, typer.Argument(metavar="SERVER", help="The server's folder.")],
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of the SuperLink, on this machine's loopback.")
    ] = 9091,
) -> None:
    """Serve the federation's nodes until stopped."""
    with reporting_errors():
        server = ServerFolder.open(folder)
        check(server)
        if port == server.federation.port:
            raise ConfigError(f"--port {port} is the port that nodes reach: the SuperLink needs another, on loopback")
        with only_one(server.path):
            service = Service(server=server, port=port)
            until_stopped(server.logs, lambda processes: serve(service, processes, say))
