"""The command line."""

import os
import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it with status 130 from the first moment on."""
    # Threads of torch wait for one another asleep, unless the user says otherwise. Awake they keep a core from the very
    # thread that they wait for, where the machine does other work. It is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from fedtrain.cli.app import main as run  # noqa: PLC0415 - what can be interrupted

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


__all__ = ["main"]
