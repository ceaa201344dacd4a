"""The ``fedtrain`` command and what all its subcommands share."""

import sys
from typing import Annotated

import typer

from fedtrain import __version__
from fedtrain.cli.audit import audit
from fedtrain.cli.budget import budget
from fedtrain.cli.client import client
from fedtrain.cli.doctor import doctor
from fedtrain.cli.privacy import privacy
from fedtrain.cli.provision import provision
from fedtrain.cli.server import server
from fedtrain.cli.simulate import simulate

app = typer.Typer(
    name="fedtrain",
    help="Privacy-preserving federated learning that a data owner can believe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(simulate)
app.command()(audit)
app.add_typer(privacy)
app.command()(budget)
app.add_typer(provision)
app.add_typer(server)
app.add_typer(client)
app.command()(doctor)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fedtrain {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the exit status says how it went: 0 done, 1 failed, 2 unusable input, 130 interrupted."""
    sys.exit(app(standalone_mode=True))
