"""What every command does when something goes wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

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
