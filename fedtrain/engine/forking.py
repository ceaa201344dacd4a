"""Workers that are copies of this process.

One copy of this process, the template, is made by ``fork`` when the grid is made, and workers are copies of the
template. It has one thread, and neither uses torch nor computes, so that a worker that is replaced in the middle of a
run starts as clean as the first. There are two reasons to copy.

An app may exist in this process alone, such as one with a task of a notebook. It cannot be imported by another process,
and it is never pickled: what unpickles runs whatever it is given. So it is inherited. A fork copies the thread that
makes it, and no other; a lock that another thread holds at that moment stays held in the copy for ever. What Python,
glibc and torch hold is taken care of by themselves, for torch as long as a copy uses one thread and this process has
not used CUDA. The user's own locks are the user's matter.

A command that owns its process has imported what its workers need, and need not import it a second time in a fork
server. It copies itself only where it is alone, with no other thread whose locks could stay held; and nothing that it
has open reaches a copy, but standard output and error.
"""

import gc
import os
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from fedtrain.errors import RunError, UsageError

# Called in a worker with its number, its end of the pipe to the parent, and a descriptor that is readable when the
# parent is gone.
Work = Callable[[int, "Connection[bytes, bytes]", int], None]

_NUMBER = struct.Struct("<q")
_UNKNOWN_EXIT = 255  # of a worker whose template is gone


def refuse_copying() -> None:
    """Refuse where a copy of this process could not work.

    Raises:
        UsageError: the platform has no safe fork, or this process has used CUDA.
    """
    otherwise = 'put the task into a module and name it (task.name = "module:attribute"), and the records into files'
    if sys.platform != "linux":
        raise UsageError(
            f"a task, data set or app that is an object is trained by copies of this process, which Linux can make and "
            f"{sys.platform} cannot: {otherwise}"
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise UsageError(
            "a task, data set or app that is an object is trained by copies of this process, and what has used CUDA "
            f"cannot be copied: restart the program or kernel and simulate before anything uses the GPU, or {otherwise}"
        )


def count_threads() -> int:
    """Return the number of threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def draw_apart() -> None:
    """Seed the global generators of this process from the system.

    Copies of one process have the same, and torch starts each process with the same seed: without this, an app that
    draws from a global generator would get the same numbers in each copy, and two clients the same noise.
    """
    np.random.seed()  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


class ForkedProcess:
    """A worker that is a copy of the template; as far as it is needed, like a ``multiprocessing.Process``."""

    def __init__(self, pid: int, status: "Connection[bytes, bytes]") -> None:
        self.pid = pid
        self._status = status
        self._exitcode: int | None = None

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process has ended."""
        return self._status.fileno()

    @property
    def exitcode(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while the process runs."""
        if self._exitcode is None and wait([self._status], 0):
            data = os.read(self.sentinel, _NUMBER.size)
            self._exitcode = _NUMBER.unpack(data)[0] if len(data) == _NUMBER.size else _UNKNOWN_EXIT
        return self._exitcode

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end."""
        if self._exitcode is None:
            wait([self._status], timeout)

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        if self.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Template:
    """A copy of this process, of which workers are copies.

    Args:
        work: what a worker does; whatever it refers to is inherited.
        kept: for a program that owns this process, and has no other thread: of what is open here, the descriptors that
            copies keep, besides standard output and error. ``None`` for any other: copies keep all.

    Raises:
        UsageError: this process cannot be copied, or, with ``kept``, it has another thread.
    """

    def __init__(self, work: Work, *, kept: Collection[int] | None = None) -> None:
        refuse_copying()
        if kept is not None:
            gc.freeze()  # a search for cycles would write to every object that the copies share
        self._lock = threading.Lock()
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, self._alive = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with warnings.catch_warnings():
                # Of Python 3.12 and later: this process may have other threads. The module says why that is no harm.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._pid = os.fork()
                if self._pid == 0:
                    _be_template(control, alive, (self._control.detach(), self._alive), work, kept)
                # Threads of linear algebra end before a fork, and begin again with the next product.
                threads = count_threads()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            control.close()
            os.close(alive)
        if kept is not None and threads > 1:
            self.close()
            raise UsageError(f"this process has {threads} threads, and a copy could wait for what another one holds")

    def start(self, index: int) -> "tuple[ForkedProcess, Connection[bytes, bytes]]":
        """Start a worker. Returns it, and this side of the pipe to it.

        Raises:
            RunError: it cannot be started.
        """
        connection, child = Pipe()
        status, ended = Pipe(duplex=False)
        with self._lock, child, ended:
            try:
                socket.send_fds(self._control, [_NUMBER.pack(index)], [child.fileno(), ended.fileno()])
                answer = self._control.recv(_NUMBER.size)
            except OSError as error:
                answer, reason = b"", str(error)
            else:
                reason = "it has ended"
        if len(answer) != _NUMBER.size:
            raise RunError(f"the process of which workers are copies cannot make one: {reason}")
        pid = _NUMBER.unpack(answer)[0]
        if pid < 0:
            raise RunError(f"the process of which workers are copies cannot make one: {os.strerror(-pid)}")
        return ForkedProcess(pid, status), connection

    def close(self) -> None:
        """End the template. Workers that still run end too."""
        self._control.close()
        os.close(self._alive)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _be_template(
    control: socket.socket, alive: int, others: tuple[int, ...], work: Work, kept: Collection[int] | None
) -> None:
    """Serve as the template, and never return: the frames below are those of the parent."""
    status = 1
    try:
        for descriptor in others:
            os.close(descriptor)
        gc.freeze()
        if kept is not None:
            _let_go({1, 2, control.fileno(), alive, *kept})
        os.setsid()  # what is sent to the group of the parent is not for copies of it
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _own_streams()
        _serve(control, alive, work)
        status = 0
    except BaseException:  # noqa: BLE001 - nobody above could handle it
        _say_why()
    finally:
        os._exit(status)


def _let_go(kept: set[int]) -> None:
    """Let go of what the parent has open. The null device takes its place, so that no file gets the number of another.

    Whatever still writes to such a number, as a stream of the parent that is collected does, writes to nothing.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # of the listing itself
            if number not in kept:
                os.fstat(number)
                os.dup2(null, number, inheritable=False)


def _own_streams() -> None:
    """Write to the descriptors: in a notebook the streams send to the front end through threads, which are not here."""
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _say_why() -> None:
    with suppress(OSError):
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))


def _serve(control: socket.socket, alive: int, work: Work) -> None:
    """Make workers until the parent is gone, and tell it how each ends."""
    running: dict[int, int] = {}  # the descriptors that take the exit codes, by process
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = wait([control.fileno(), woken])
        if woken in ready:
            os.read(woken, 4096)
            _tell_exits(running)
        if control.fileno() in ready:
            data, descriptors, _, _ = socket.recv_fds(control, _NUMBER.size, 2)
            if not data:
                return
            connection, status = descriptors
            try:
                pid = os.fork()
            except OSError as error:
                pid = -(error.errno or 1)
                os.close(status)
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (control.detach(), woken, wake, status, *running.values()):
                    os.close(descriptor)
                _be_worker(_NUMBER.unpack(data)[0], Connection(connection), alive, work)
            if pid > 0:
                running[pid] = status
            os.close(connection)
            control.send(_NUMBER.pack(pid))


def _tell_exits(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = running.pop(pid)
        with suppress(BrokenPipeError):
            os.write(descriptor, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(descriptor)


def _be_worker(index: int, connection: "Connection[bytes, bytes]", alive: int, work: Work) -> None:
    status = 1
    try:
        work(index, connection, alive)
        status = 0
    except BaseException:  # noqa: BLE001 - nobody above could handle it
        _say_why()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
