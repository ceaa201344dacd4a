"""The ``fedtrain`` command. Its subcommands are imported when they are run, and not to list them."""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from click import ClickException
from typer.core import TyperCommand, TyperGroup
from typer.models import TyperPath

from fedtrain import __version__
from fedtrain.cli.examples import EXAMPLES, PERSONAS
from fedtrain.cli.streams import INTERRUPTED, answering, prepare_streams
from fedtrain.errors import UsageError
from fedtrain.files import current_folder

# Each command: the module that has a function or a group of its name, and the first line of its help.
COMMANDS = {
    "new": (
        "fedtrain.cli.new",
        "Make a folder with an experiment of your own, which runs as it is, and has one file to edit.",
    ),
    "init": ("fedtrain.cli.init", "Write an experiment that runs as it is, with a comment on every field."),
    "simulate": ("fedtrain.cli.simulate", "Run an experiment, or any Flower app, on this machine."),
    "sweep": ("fedtrain.cli.sweep", "Run an experiment with all combinations of some values, and compare the runs."),
    "compare": ("fedtrain.cli.compare", "Print runs side by side: what each reached, guarantees and cost."),
    "watch": (
        "fedtrain.cli.watch",
        "Show where a run stands: round, clients, who is late, accuracy, epsilon, time left, last errors.",
    ),
    "predict": ("fedtrain.cli.predict", "Predict the targets of new records with a trained model."),
    "export": (
        "fedtrain.cli.export",
        "Write a trained model with a model card: safetensors, and ONNX where it can be.",
    ),
    "explain": (
        "fedtrain.cli.explain",
        "Explain what a trained model's outputs depend on, on central test records alone.",
    ),
    "config": ("fedtrain.cli.config", "Check the configuration of an experiment."),
    "stats": ("fedtrain.cli.stats", "Release statistics of columns over a federation, charged to the ledgers."),
    "data": ("fedtrain.cli.data", "Prepare a data set: the schema file of a table, texts without names and numbers."),
    "audit": ("fedtrain.cli.audit", "Check everything that a report claims about privacy, trusting nothing in it."),
    "privacy": ("fedtrain.cli.privacy", "What an experiment would guarantee and spend."),
    "budget": (
        "fedtrain.cli.budget",
        "Show the spent and the remaining budget of each data set, and how many more rounds fit.",
    ),
    "provision": ("fedtrain.cli.provision", "Say who belongs to a federation: certificates, kits, members."),
    "server": ("fedtrain.cli.server", "Serve a federation, and run experiments in it."),
    "client": ("fedtrain.cli.client", "Take part in a federation, on a node of your own."),
    "doctor": (
        "fedtrain.cli.doctor",
        "Check a node's or a server's machine: each line says ok, or what to do. Exits with 1 if anything fails.",
    ),
}

_AS_JSON = "fedtrain.cli.as_json"
_INTERRUPT = (INTERRUPTED, "interrupted")


class LazyGroup(TyperGroup):
    """A group that lists its commands without importing them."""

    def __init__(self, **attributes: Any) -> None:
        """Fill the list."""
        super().__init__(**attributes)
        panels = {name: panel for panel, names in PERSONAS.items() for name in names}
        self.commands = {
            name: TyperCommand(name, help=summary, rich_help_panel=panels.get(name))
            for name, (_, summary) in COMMANDS.items()
        }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note whether ``--json`` is among the arguments, and read those before the name of a command."""
        ctx.meta[_AS_JSON] = "--json" in args
        with _mistakes_told(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name. With ``--json``, a mistake in them is an object too."""
        with _mistakes_told(ctx):
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments name, imported, and the arguments that are left."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load(name), rest


@contextmanager
def _mistakes_told(ctx: Any) -> Iterator[None]:
    """Tell of what ends a command before it answers itself, as while it is imported: with ``--json`` by an object.

    click tells of mistakes itself, and of an interrupt not.
    """
    try:
        yield
    except (ClickException, KeyboardInterrupt) as error:
        told = (error.exit_code, error.format_message()) if isinstance(error, ClickException) else _INTERRUPT
        if ctx.meta[_AS_JSON]:
            with answering(True) as answer:
                answer({"exit_status": told[0], "error": told[1]})
        if isinstance(error, KeyboardInterrupt):
            sys.stderr.write("error: interrupted\n")
        raise


def load(name: str) -> Any:
    """Import one of the commands, and return it as a command of click's, which typer is built on."""
    found = getattr(import_module(COMMANDS[name][0]), name)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name, epilog=_example(name))(found)
        return _with_named_paths(typer.main.get_command(single))
    group = typer.main.get_group(found)
    for leaf, command in group.commands.items():
        _with_named_paths(command).epilog = _example(f"{name} {leaf}")
    return group


def _example(command: str) -> str | None:
    return f"Example: {EXAMPLES[command]}" if command in EXAMPLES else None


class NamedPath(TyperPath):
    """A path of a command line. An empty one is refused: it would be the current folder.

    So is one of which the system does not say whether it is there: too long a name, or in a folder that is not to be
    searched.
    """

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the path, or end the command where it is empty."""
        if not value:
            self.fail("the path is empty, as that of an unset variable is; write . for the current folder", param, ctx)
        try:
            os.lstat(value)
        except OSError as error:
            if error.errno in {errno.ENAMETOOLONG, errno.EACCES}:
                self.fail(f"{value}: {error.strerror}", param, ctx)
        return super().convert(value, param, ctx)


def _with_named_paths(command: Any) -> Any:
    for parameter in command.params:
        if isinstance(parameter.type, TyperPath):
            parameter.type = NamedPath()
    return command


app = typer.Typer(
    name="fedtrain",
    cls=LazyGroup,
    help="Privacy-preserving federated learning that a data owner can believe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
    # The interpreter looks for cycles before it ends, among all objects of torch: more than a second, and to no end.
    atexit.register(gc.freeze)
    prepare_streams()
    try:
        current_folder()
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_status)
    sys.exit(app(standalone_mode=True))
