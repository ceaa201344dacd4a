"""The command line."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it with status 130 from the first moment on."""
    try:
        from fedtrain.cli.app import main as run  # noqa: PLC0415 - what can be interrupted

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


__all__ = ["main"]
