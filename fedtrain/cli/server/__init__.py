"""``fedtrain server``: what the operator does on the server's machine."""

import typer

from fedtrain.cli.server.bundle import bundle
from fedtrain.cli.server.run import run
from fedtrain.cli.server.up import up

server = typer.Typer(name="server", help="Serve a federation, and run experiments in it.", no_args_is_help=True)
server.command()(up)
server.command()(run)
server.command()(bundle)

__all__ = ["server"]
