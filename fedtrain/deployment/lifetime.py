"""Become another program that ends when the process that started it does, even if that is killed.

Run as ``python -m fedtrain.deployment.lifetime PARENT COMMAND...``.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Bind this process to its parent, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before
        sys.exit(0)
    os.execv(command[0], command)  # noqa: S606 - the command is ours, and no shell reads it


if __name__ == "__main__":
    main()
