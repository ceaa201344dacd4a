"""The life of one worker process, as the parent sees it, and the thread that starts them.

Where workers can import the app, processes come from multiprocessing's fork server, which has the named modules
imported already, so that a worker starts in milliseconds. The fork server is one per parent process: the modules of
the first `start_fork_server` count. Where the app exists in the parent alone, or the parent is a command, they are
copies of a `Template`. A thread starts them, so that the parent goes on while the fork server imports.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver, get_context, resource_tracker, spawn
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from flwr.clientapp import ClientApp
from threadpoolctl import threadpool_limits

from fedtrain.engine.arena import remove_file
from fedtrain.engine.codec import Stop, pack_frame
from fedtrain.engine.forking import ForkedProcess, Template
from fedtrain.engine.worker import WorkerSpec, main, slot_name, trace_name

SLOTS = 2  # messages that a worker has in its hands: one that runs, and the next
_PROCESS_NAME = "fedtrain-worker"
_STACK_WAIT = 1.0  # seconds for a worker to write its stacks
_EXIT_WAIT = 2.0  # seconds for an idle worker to end by itself
_KILL_WAIT = 10.0  # seconds for the operating system to end a killed process
_spawn_lock = threading.Lock()


def start_fork_server(preload: Sequence[str], threads: int) -> None:
    """Start the fork server, if it does not run yet, without waiting for its imports.

    Args:
        preload: names of modules to import there. One that cannot be imported is left out.
        threads: the number of threads that numeric libraries may use in workers.
    """
    get_context("forkserver").set_forkserver_preload([*preload, "fedtrain.engine.worker"])
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    variables = {"PYTHONPATH": path, **_silenced_tracker(), **thread_variables(threads)}
    # Its import path is not inherited in Python 3.11, and numeric libraries read their variables when they are
    # imported. Ctrl-C is blocked there: it would kill the server in the middle of its imports.
    with _spawn_lock, _environment(variables), _blocked_interrupt():
        forkserver.ensure_running()


def _silenced_tracker() -> dict[str, str]:
    """Return the variable with which the process of Python's that removes what others leave says nothing of it.

    It starts with the fork server, and removes what a worker leaves which is killed: the semaphores of a DataLoader,
    say. It would warn of each.
    """
    return {"PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]))}


def make_template(spec: WorkerSpec, app: ClientApp) -> Template:
    """Make the process of which the workers of an app that exists in this process alone are copies.

    Raises:
        UsageError: this process cannot be copied.
    """
    with _one_thread():
        return Template(partial(_work, spec, app))


def make_own_template(spec: WorkerSpec) -> Template:
    """Make the process of which the workers of a command are copies, which owns its process and has no other thread.

    Raises:
        UsageError: this process cannot be copied, or it has another thread.
    """
    with _spawn_lock, _environment(_silenced_tracker()):
        tracker = resource_tracker.getfd()
    assert tracker is not None  # it runs
    with _one_thread():
        return Template(partial(_work, spec, None), kept=(tracker,))


def _one_thread() -> threadpool_limits:
    """Give numpy's linear algebra one thread, in copies that are made meanwhile: it reads variables when imported."""
    return threadpool_limits(1, user_api="blas")


def _work(
    spec: WorkerSpec, app: ClientApp | None, index: int, connection: "Connection[bytes, bytes]", parent: int
) -> None:
    main(index, _with_variables(index, spec), connection, app=app, parent=parent)


def _with_variables(index: int, spec: WorkerSpec) -> WorkerSpec:
    variables = {**thread_variables(spec.threads), **device_variables(index)}
    return replace(spec, environment={**spec.environment, **variables})


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that limit the threads of numeric libraries."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def device_variables(index: int) -> dict[str, str]:
    """Return the environment variable that gives a worker one of several GPUs in turn, if there are several."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        devices = [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    else:
        devices = [entry.strip() for entry in chosen.split(",") if entry.strip()]
    return {"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if len(devices) > 1 else {}


class WorkerProcess:
    """A started worker. Creating one takes milliseconds, or as long as the fork server still imports.

    Args:
        index: its number.
        spec: what it must know.
        template: the process of which it is to be a copy; ``None`` for the fork server.
    """

    def __init__(self, index: int, spec: WorkerSpec, template: Template | None = None) -> None:
        self._index = index
        self._directories, self._together = spec.directories, spec.together
        self._process: ForkServerProcess | ForkedProcess
        self.connection: Connection[bytes, bytes]
        if template is not None:
            self._process, self.connection = template.start(index)
            return
        context = get_context("forkserver")
        self.connection, child = context.Pipe()
        self._process = context.Process(
            target=main, args=(index, _with_variables(index, spec), child), name=f"{_PROCESS_NAME}-{index}"
        )
        try:
            with _without_main_module(), _blocked_interrupt():
                self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            child.close()

    @property
    def index(self) -> int:
        """The number of this worker; never used again in the same run."""
        return self._index

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process has ended."""
        return self._process.sentinel

    def describe_exit(self) -> str:
        """Say how the process ended, with the Python stacks that it left."""
        self._process.join(_KILL_WAIT)
        code = self._process.exitcode
        if code is None:
            how = "did not end"
        elif code < 0:
            how = f"was killed by {_signal_name(-code)}"
        else:
            how = f"exited with code {code}"
        stacks = self._stacks()
        return f"{how}\n{stacks}" if stacks else how

    def ask_for_stacks(self) -> None:
        """Let the process write its Python stacks; `collect_stacks` reads them."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    def collect_stacks(self, deadline: float) -> str:
        """Return the Python stacks of the process, waiting for them until ``deadline`` (monotonic seconds) at most."""
        stacks = self._stacks()
        while time.monotonic() < deadline:
            time.sleep(0.01)
            before, stacks = stacks, self._stacks()
            if stacks and stacks == before:
                break
        return stacks

    def kill(self) -> None:
        """End the process and those that it started, at once, and remove its files."""
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
        self._process.join(_KILL_WAIT)
        self.connection.close()
        for directory in self._directories:
            for slot in range(SLOTS * self._together):
                remove_file(directory / slot_name(self._index, slot))
        remove_file(self._directories[-1] / trace_name(self._index))

    def ask_to_end(self) -> None:
        """Let the process end by itself, as soon as it is idle; `finish` waits for it."""
        with contextlib.suppress(OSError):  # it has ended already
            self.connection.send_bytes(pack_frame(Stop()))

    def finish(self, deadline: float) -> None:
        """Wait for the process to end by itself, until ``deadline`` (monotonic seconds) at most."""
        self._process.join(max(0.0, deadline - time.monotonic()))

    def _stacks(self) -> str:
        try:
            return (self._directories[-1] / trace_name(self._index)).read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""


def stack_deadline() -> float:
    """Return until when to wait for the stacks that were just asked for."""
    return time.monotonic() + _STACK_WAIT


def exit_deadline() -> float:
    """Return until when to wait for the workers that were just asked to end."""
    return time.monotonic() + _EXIT_WAIT


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _blocked_interrupt() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep multiprocessing from running the user's main script again in each worker; workers need nothing from it."""
    with _spawn_lock:
        original = spawn.get_preparation_data

        def reduced(name: str) -> dict[str, Any]:
            data = original(name)
            if name.startswith(_PROCESS_NAME):
                data = {key: value for key, value in data.items() if not key.startswith("init_main_")}
            return data

        spawn.get_preparation_data = reduced
        try:
            yield
        finally:
            spawn.get_preparation_data = original


class Spawner:
    """Starts workers in the order of the orders. Its `fileno` becomes readable when one is started or has failed to.

    Args:
        start: starts the worker with a number.
    """

    def __init__(self, start: Callable[[int], WorkerProcess]) -> None:
        self._start = start
        self._orders: SimpleQueue[int | None] = SimpleQueue()
        self._results: SimpleQueue[WorkerProcess | Exception] = SimpleQueue()
        self._readable, self._writable = os.pipe()
        self._thread = threading.Thread(target=self._work, name="fedtrain-spawner", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._readable

    def order(self, index: int) -> None:
        """Ask for a worker with this number."""
        self._orders.put(index)

    def collect(self) -> WorkerProcess | Exception:
        """Return the next worker, or why it could not be started. Waits for it, unless `fileno` is readable."""
        os.read(self._readable, 1)
        return self._results.get()

    def close(self) -> list[WorkerProcess]:
        """Stop, and return the workers that were started and not collected."""
        self._orders.put(None)
        self._thread.join()
        os.close(self._readable)
        os.close(self._writable)
        left: list[WorkerProcess] = []
        while True:
            try:
                result = self._results.get_nowait()
            except Empty:
                return left
            if isinstance(result, WorkerProcess):
                left.append(result)

    def _work(self) -> None:
        while (index := self._orders.get()) is not None:
            try:
                result: WorkerProcess | Exception = self._start(index)
            except Exception as error:  # noqa: BLE001 - handed to the thread that collects
                result = error
            self._results.put(result)
            os.write(self._writable, b"w")
