"""Flower's SuperExec, which starts a ClientApp for each message from a process that has imported what it needs.

Flower starts a program for each message, and a program that trains imports torch and Opacus first: seconds, for each
message of a round. Here the ClientApp is a copy, by ``fork``, of a process that has imported the same and done nothing
else: it has seen no message, no key and no record. Each message still has a process of its own, which ends with it.
Anything else that Flower starts, it starts as always. Run as ``python -m fedtrain.flower.superexec ARGUMENTS...``, with
the arguments of ``flower-superexec``.

After another version of a package is installed, restart the node: until then its clients run what it has imported.
"""

import atexit
import importlib
import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from fedtrain.engine.forking import ForkedProcess, Template, draw_apart
from fedtrain.errors import RunError, UsageError
from fedtrain.flower.looks import Looks

CLIENTAPP = "flwr-clientapp"

# All that a message of a client may need. By their names, since they are above this package.
_IMPORTED = (
    "flwr.supernode.cli",
    "fedtrain.clientapp.app",
    "fedtrain.clientapp.training",
    "fedtrain.tasks",
    "fedtrain.training.private",
    "torch.optim",
)


class ClientApps:
    """Starts ClientApps as copies of a process that has imported what they need.

    Raises:
        UsageError: this process cannot be copied.
    """

    def __init__(self) -> None:
        for module in _IMPORTED:
            importlib.import_module(module)
        self._template = Template(_run)
        self._running: list[ForkedProcess] = []

    def start(self, arguments: list[str]) -> ForkedProcess:
        """Start one with the arguments of its command, of which the first is its name.

        Raises:
            RunError: it cannot be started.
            OSError: likewise, there are no descriptors left, or it ended at once.
        """
        # What has ended is forgotten, and its descriptors closed.
        self._running = [process for process in self._running if process.exitcode is None]
        process, connection = self._template.start(0)
        with connection:
            connection.send_bytes(json.dumps(arguments).encode())
        self._running.append(process)
        return process

    def close(self) -> None:
        """End the process that is copied. ClientApps that still run do not end."""
        self._template.close()


def _run(_number: int, connection: Any, _alive: int) -> None:
    """Be Flower's command in a copy."""
    with connection:
        sys.argv = json.loads(connection.recv_bytes())
    draw_apart()
    # As in any program that starts: Flower interrupts a ClientApp whose SuperExec has ended (``--parent-pid``).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        with suppress(SystemExit):  # the command ends with it
            importlib.import_module("flwr.supernode.cli").flwr_clientapp()
    finally:
        # As in any program that ends: temporary files of an app, which may hold records, are removed.
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does in its copies
        atexit._run_exitfuncs()  # noqa: SLF001 - likewise


def launching(apps: ClientApps, looks: Looks) -> Any:
    """Return what stands for the module ``subprocess`` where Flower launches programs.

    Args:
        apps: starts ClientApps.
        looks: is told of each program.
    """

    def start(arguments: list[str], **options: Any) -> object:
        looks.found()
        if arguments[0] == CLIENTAPP and not options:
            with suppress(RunError, OSError):
                return apps.start(arguments)
        return subprocess.Popen(arguments, **options)  # noqa: S603 - as Flower does

    return SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)


def main() -> None:
    """Be ``flower-superexec``. Where this process cannot be copied, it is Flower's own."""
    launcher = importlib.import_module("flwr.supercore.superexec.executor.subprocess_executor")
    looks = Looks()
    with suppress(UsageError):
        vars(launcher)["subprocess"] = launching(ClientApps(), looks)
    vars(importlib.import_module("flwr.supercore.superexec.run_superexec"))["time"] = looks.time
    importlib.import_module("flwr.supercore.cli").flower_superexec()


if __name__ == "__main__":
    main()
