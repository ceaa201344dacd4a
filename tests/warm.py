"""The command in copies of a process that has imported what it needs: a short run imports longer than it trains.

Each command is a process of its own, in a session of its own, that runs the command's ``main`` to its end. A test of
how a process starts, or of one that dies, starts it as it is installed.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

# What the commands of the tests import, besides what these import themselves.
IMPORTED = (
    "dp_accounting.pld",
    "fedtrain.api",
    "fedtrain.audit",
    "fedtrain.cli.audit",
    "fedtrain.cli.simulate",
    "fedtrain.report",
    "fedtrain.serverapp.run",
    "fedtrain.tasks",
    "flwr.serverapp.strategy",
    "opacus",
)
_LARGEST = 1 << 17


class WarmCommand:
    """Runs ``fedtrain`` in copies of one process, one command at a time."""

    def __init__(self, environment):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from tests.warm import serve; serve()", str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def run(self, arguments, *, cwd, environment, stdout, stderr, timeout):
        """Run the command, and return its exit status.

        Args:
            arguments: of the command, without its name.
            cwd: the folder that it runs in.
            environment: all of its environment.
            stdout, stderr: files for what it prints.
            timeout: seconds, after which it is killed with all that it started.
        """
        order = [["fedtrain", *arguments], str(cwd), environment, str(stdout), str(stderr)]
        self._control.settimeout(timeout)
        self._control.send(json.dumps(order).encode())
        pid = int(self._control.recv(_LARGEST))
        try:
            return int(self._control.recv(_LARGEST))
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            self._control.recv(_LARGEST)
            raise

    def close(self):
        self._control.close()
        self._process.wait(timeout=60)


def serve():
    """Run commands in copies of this process. A copy returns from here, with the command done."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in IMPORTED:
        importlib.import_module(module)
    while order := control.recv(_LARGEST):
        pid = os.fork()
        if pid == 0:
            control.close()
            be_command(*json.loads(order))
            return
        control.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        with suppress(BrokenPipeError):
            control.send(str(os.waitstatus_to_exitcode(status)).encode())


def be_command(arguments, cwd, environment, stdout, stderr):
    """Run the command in this process, as if it had been started so."""
    os.setsid()
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    importlib.import_module("fedtrain.cli").main()
