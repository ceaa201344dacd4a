"""What every command does when something goes wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fedtrain.errors import FedtrainError


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print an error of the library as one message, and exit with its status."""
    try:
        yield
    except FedtrainError as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(error.exit_status) from None
