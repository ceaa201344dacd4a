"""The command in copies of a process that has imported what it needs: a short run imports longer than it trains.

Each command is a process of its own, in a session of its own, that runs the command's ``main`` to its end, and of which
its workers are copies. A test of how a process starts, or of what a worker prints, runs the command as it is installed.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# What the commands of the tests import, besides what these import themselves.
IMPORTED = (
    "dp_accounting.pld",
    "fedtrain.api",
    "fedtrain.audit",
    "fedtrain.cli.audit",
    "fedtrain.cli.simulate",
    "fedtrain.clientapp.training",
    "fedtrain.deployment.running",
    "fedtrain.privacy.accounting.rdp",
    "fedtrain.report.html",
    "fedtrain.serverapp.run",
    "fedtrain.tasks",
    "fedtrain.training.private",
    "flwr.cli.build",
    "flwr.serverapp.strategy",
    "opacus",
    "peft",
    "transformers.models.bert.modeling_bert",
)
_LARGEST = 1 << 17
_PATIENCE = 600  # seconds: to import all of this takes minutes where many others work


class WarmCommand:
    """Runs ``fedtrain`` in copies of one process, one command at a time."""

    def __init__(self, environment):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from tests.warm import serve; serve()", str(theirs.fileno())],
                env={"OMP_WAIT_POLICY": "PASSIVE", **environment},  # as the command sets it before it imports torch
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def run(self, arguments, *, timeout, **place):
        """Run the command, and return its exit status.

        Args:
            arguments: of the command, without its name.
            timeout: seconds, after which it is killed with all that it started.
            place: as `start` has it.
        """
        command = self.start(arguments, **place)
        try:
            return command.wait(timeout)
        except TimeoutError:
            os.killpg(command.pid, signal.SIGKILL)
            command.wait(_PATIENCE)
            raise

    def start(self, arguments, *, cwd, environment, stdout, stderr):
        """Start the command, of which one may run at a time.

        Args:
            arguments: of the command, without its name.
            cwd: the folder that it runs in.
            environment: all of its environment.
            stdout, stderr: files for what it prints.
        """
        order = [["fedtrain", *arguments], str(cwd), environment, str(stdout), str(stderr)]
        self._control.settimeout(_PATIENCE)
        self._control.send(json.dumps(order).encode())
        return Started(self._control, int(self._control.recv(_LARGEST)), (stdout, stderr))

    def close(self):
        self._control.close()
        self._process.wait(timeout=_PATIENCE)


class Started:
    """A command that runs, as `subprocess.Popen` has one. Its process leads a group of its own."""

    def __init__(self, control, pid, printed):
        self.pid, self.returncode = pid, None
        self._control, self._printed = control, printed

    def wait(self, timeout):
        if self.returncode is None:
            self._control.settimeout(timeout)
            self.returncode = int(self._control.recv(_LARGEST))
        return self.returncode

    def poll(self):
        with suppress(BlockingIOError):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout=_PATIENCE):
        self.wait(timeout)
        return tuple(Path(file).read_text(encoding="utf-8") for file in self._printed)


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
