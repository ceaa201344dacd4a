"""A lock whose owner changes: a thread that comes back waits behind those that were there before."""

import threading
from collections import deque
from typing import Self


class FairLock:
    """Gives threads their turn in the order in which they ask: none that asks again at once starves the others."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> Self:
        """Wait for the turn."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return self
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while it waits
            with self._mutex:
                waiting = gate in self._waiting
                if waiting:
                    self._waiting.remove(gate)
            if not waiting:  # its turn had come
                self._pass_on()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Hand the turn to the thread that has waited longest."""
        self._pass_on()

    def _pass_on(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
