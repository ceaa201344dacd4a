"""The thread that lets a pool of workers work on its own, and the way in which callers wait for it.

The thread waits for what happens without holding the lock, and deals with it while it holds it. Callers hold the lock
for as long as they submit or look, and never while they wait.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from fedtrain.engine.pool import Pool
from fedtrain.engine.requests import Group
from fedtrain.errors import FedtrainError, RunError, UsageError


class Driver:
    """Drives a pool from a thread.

    Args:
        pool: what it drives; nothing else may use it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._changed = threading.Condition(threading.Lock())
        self._awaited: list[threading.Event] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="fedtrain-engine", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def turn(self) -> Iterator[Self]:
        """Keep the pool as it is for as long as the context lasts.

        Raises:
            RunError: the pool has failed.
            UsageError: it is closed.
        """
        with self._changed:
            self._check()
            yield self

    def submit(self, groups: Iterable[Group]) -> None:
        """Take on groups of requests, in this order. Only within a turn."""
        self._pool.submit(groups)

    def rest(self) -> None:
        """End idle workers, until there is a request. Only within a turn."""
        self._pool.rest()

    def wait_until(self, holds: Callable[[], bool], *, timeout: float) -> None:
        """Let the pool go on until a condition holds, for ``timeout`` seconds at most. Only within a turn.

        Raises:
            RunError: the pool has failed.
            UsageError: it is closed.
        """
        self._changed.wait_for(lambda: self._ended() or holds(), timeout)
        self._check()

    def wait_for(self, answered: threading.Event) -> None:
        """Wait for an event that the pool sets. Never within a turn.

        Raises:
            RunError: the pool has failed.
            UsageError: it is closed.
        """
        with self.turn():
            self._awaited.append(answered)
        try:
            answered.wait()
        finally:
            with self._changed:
                self._awaited.remove(answered)
        with self.turn():
            pass

    def close(self) -> None:
        """End the thread, and all workers."""
        with self._changed:
            self._closed = True
            self._tell()
        self._pool.wake()
        self._thread.join()
        self._pool.close()

    def _work(self) -> None:
        try:
            while not self._ended():
                events = self._pool.wait()
                with self._changed:
                    if not self._closed:
                        self._pool.proceed(events)
                        self._tell()
        except Exception as error:  # noqa: BLE001 - raised where a caller waits
            failure = error if isinstance(error, FedtrainError) else RunError(f"the engine failed: {error!r}")
            failure.__cause__ = None if failure is error else error
            with self._changed:
                self._pool.fail(failure)
                self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._ended():
            for event in self._awaited:
                event.set()

    def _ended(self) -> bool:
        return self._closed or self._pool.failure is not None

    def _check(self) -> None:
        if self._closed:
            raise UsageError("the LocalGrid is closed: use it within its `with` block")
        if self._pool.failure is not None:
            raise self._pool.failure
