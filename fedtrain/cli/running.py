"""How a command ends: an error becomes one message and a status, and a service stays until it is stopped."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import typer

from fedtrain.deployment.processes import Processes, Stopped, stopped_by_signals
from fedtrain.errors import FedtrainError
from fedtrain.report.numbers import printable


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print an error of the library as one message, and exit with its status."""
    try:
        yield
    except FedtrainError as error:
        # It may quote a file that somebody else wrote. Messages of our own may have several lines.
        message = printable(str(error), kept="\n")
        sys.stderr.write(f"error: {message}\n")
        raise typer.Exit(error.exit_status) from None


def say(line: str) -> None:
    """Tell a person what changed, and when. It may quote what another machine said."""
    sys.stdout.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {printable(line, kept=chr(10))}\n")
    sys.stdout.flush()


def until_stopped(logs: Path, serve: Callable[[Processes], None]) -> None:
    """Run programs until a signal stops them, and end all of them then.

    Args:
        logs: folder of what they print.
        serve: starts them, and keeps them running.
    """
    try:
        with stopped_by_signals(), Processes(logs) as processes:
            serve(processes)
    except Stopped:
        say("stopped")
