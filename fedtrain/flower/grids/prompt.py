"""Hand each reply over as soon as it is there, whatever becomes of the others.

Flower's grid over a network fetches replies one after the other. Where a node goes away while it sends its reply, the
grid waits for the rest of it, up to three minutes, and meanwhile gives back nothing: replies of other nodes, which were
there in time, are too late for their round. Behind this grid each is fetched by itself.
"""

import time
from collections.abc import Iterable
from math import inf
from queue import Empty, SimpleQueue
from threading import Thread

from flwr.app import Message
from flwr.serverapp import Grid

from fedtrain.flower.grids.base import GridWrapper

# All replies together are asked for at no more than this rate: the SuperLink takes milliseconds for each question.
_RATE = 50.0
# Seconds before a reply is asked for again: a share of the time that it took so far, between two bounds.
_SHORTEST, _LONGEST, _SHARE = 0.1, 1.0, 0.05


def pause_before_asking(waited: float, *, replies: int) -> float:
    """Return how long to leave the SuperLink alone with a reply that is not there yet.

    What takes long is asked for less often, so that a round of minutes costs its SuperLink little, and none is found
    later than the twentieth part of the time that it took, or a tenth of a second. One that comes less than a second
    before the deadline of its round can be too late.

    Args:
        waited: seconds since the reply was first asked for.
        replies: how many are waited for.

    Returns:
        Seconds from one question to the next.

    >>> [pause_before_asking(waited, replies=3) for waited in (0.0, 10.0, 600.0)]
    [0.1, 0.5, 1.0]
    """
    return max(min(_SHARE * waited, _LONGEST), _SHORTEST, replies / _RATE)


class PromptGrid(GridWrapper):
    """Fetches each reply in a thread of its own, which the grid inside has to allow, as Flower's does."""

    def __init__(self, inner: Grid) -> None:
        super().__init__(inner)
        self._fetched: SimpleQueue[tuple[str, list[Message] | Exception]] = SimpleQueue()
        self._under_way: set[str] = set()
        # When each was asked for first, and last.
        self._asked: dict[str, tuple[float, float]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, after at most the time in which all are asked for once."""
        waiting = list(message_ids)
        now = time.monotonic()
        self._asked = {message_id: self._asked.get(message_id, (now, -inf)) for message_id in waiting}
        for message_id, (first, last) in self._asked.items():
            pause = pause_before_asking(now - first, replies=len(waiting))
            if message_id not in self._under_way and now - last >= pause:
                self._asked[message_id] = (first, now)
                self._under_way.add(message_id)
                # A daemon: one that still waits for a reply that nobody needs does not keep the process.
                Thread(target=self._fetch, args=(message_id,), daemon=True).start()
        replies = self._taken(until=now + pause_before_asking(0.0, replies=len(waiting)))
        return [reply for reply in replies if reply.metadata.reply_to_message_id in self._asked]

    def _fetch(self, message_id: str) -> None:
        try:
            self._fetched.put((message_id, list(self._inner.pull_messages([message_id]))))
        except Exception as error:  # noqa: BLE001 - raised again where the replies are asked for
            self._fetched.put((message_id, error))

    def _taken(self, *, until: float) -> list[Message]:
        """Wait for the first replies, and return them with all that are there by then."""
        replies: list[Message] = []
        while True:
            try:
                left = 0.0 if replies else max(0.0, until - time.monotonic())
                message_id, found = self._fetched.get(timeout=left)
            except Empty:
                return replies
            self._under_way.remove(message_id)
            if isinstance(found, Exception):
                raise found
            replies += found
