"""``fedtrain client``: what a site does on its own node."""

import typer

from fedtrain.cli.client.approve import approve
from fedtrain.cli.client.data import data
from fedtrain.cli.client.init import init
from fedtrain.cli.client.rotate import rotate
from fedtrain.cli.client.up import up

client = typer.Typer(name="client", help="Take part in a federation, on a node of your own.", no_args_is_help=True)
client.command()(init)
client.command()(rotate)
client.command()(data)
client.command()(approve)
client.command()(up)

__all__ = ["client"]
