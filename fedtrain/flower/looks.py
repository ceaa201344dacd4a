"""How long Flower's programs of a node wait between two looks for work.

Flower's SuperNode looks for messages every three seconds, and its SuperExec for tasks every second. A round of ours has
two or three messages for each node, one soon after the other, and so was waiting for the most part. Soon after a
message a node looks often, and the longer none comes the more seldom, down to Flower's own rate.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_SHORTEST, _SHARE = 0.3, 0.1


def pause_before_looking(since: float, *, longest: float) -> float:
    """Return how long to wait before the next look.

    A message is found no later than the tenth part of the time that it took to come, or three tenths of a second.

    Args:
        since: seconds since there was something the last time.
        longest: seconds; as long as Flower waits.

    Returns:
        Seconds.

    >>> [pause_before_looking(since, longest=3.0) for since in (0.0, 10.0, 600.0)]
    [0.3, 1.0, 3.0]
    """
    return min(longest, max(_SHORTEST, _SHARE * since))


class Looks:
    """When a program of Flower's found something, and how long it waits until it looks again."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Begin: there was nothing yet.

        Args:
            clock: in seconds.
            wait: for so many seconds.
        """
        self._clock, self._wait = clock, wait
        self._found = float("-inf")

    @property
    def time(self) -> Any:
        """What stands for the module ``time`` where Flower sleeps between two looks."""
        return SimpleNamespace(**{**vars(time), "sleep": self.sleep})

    def found(self) -> None:
        """Note that there was something: more may follow soon."""
        self._found = self._clock()

    def sleep(self, seconds: float) -> None:
        """Wait before the next look, at most for as long as Flower would."""
        self._wait(pause_before_looking(self._clock() - self._found, longest=seconds))
