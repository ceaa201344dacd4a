"""The command line."""

from fedtrain.cli.app import main

__all__ = ["main"]
