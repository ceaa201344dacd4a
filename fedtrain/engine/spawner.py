"""A thread that starts workers, so that the parent goes on while the fork server imports."""

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from fedtrain.engine.process import WorkerProcess


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
