"""A Grid around a Grid: the seam over which the server's capabilities compose; and how messages are sent through it."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedtrain.engine import LocalGrid
from fedtrain.errors import ForgeryError, TransportError

# How often a grid that answers at once is asked for replies, in seconds.
_POLL = 0.1

EXPIRED = ("Error: Message Unavailable", "Error: Reply Message Unavailable")
"""How a SuperLink begins what it says in the place of an answer that did not come while its message was valid."""

# How a line of a traceback that says what was raised begins, and how much of that is shown to people.
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\w*: ")
_LONGEST = 600

_T = TypeVar("_T")


class GridWrapper(Grid):
    """Hands everything to the grid inside. Subclasses change what they are about."""

    def __init__(self, inner: Grid) -> None:
        self._inner = inner

    def set_run(self, run: Run) -> None:
        """Set the run of the grid inside."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid inside."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message as the grid inside does."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the grid inside."""
        return self._inner.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the grid inside knows of its nodes."""
        return self._inner.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages through the grid inside."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that the grid inside has."""
        return self._inner.pull_messages(message_ids)

    def rest(self) -> None:
        """Let the grid inside rest (`let_rest`)."""
        let_rest(self._inner)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and collect their replies, through this wrapper's own push and pull."""
        return collect(self, messages, timeout=timeout)


def let_rest(grid: Grid) -> None:
    """End the workers of a simulation until there is a message for them. Nodes of a deployment go on."""
    if isinstance(grid, GridWrapper | LocalGrid):
        grid.rest()


def exchange(
    grid: Grid, messages: Iterable[Message], *, timeout: float | None = None
) -> Iterator[tuple[int, Message | None]]:
    """Send messages, and yield each reply as it comes, with the place of its message among those that were sent.

    A message that the grid could not send has ``None`` in the place of a reply, at once. What comes twice is yielded
    once; what has not come within ``timeout`` seconds is not, nor what a SuperLink says in its place. The grid is asked
    once more when they are over: this function's clock decides neither about a reply that is there, nor about the
    grid's own word on a late client.
    """
    messages = list(messages)
    # Flower's own grid returns None for a message that it could not send; others may return fewer ids.
    ids = [message_id or None for message_id in grid.push_messages(messages)]
    ids += [None] * (len(messages) - len(ids))
    yield from ((place, None) for place, message_id in enumerate(ids) if message_id is None)
    waiting = {message_id: place for place, message_id in enumerate(ids) if message_id is not None}
    deadline = None if timeout is None else time.monotonic() + timeout
    while waiting:
        started = time.monotonic()
        over = deadline is not None and started >= deadline
        new = list(grid.pull_messages(list(waiting)))
        idle = not new
        while new:  # whoever gets a reply is the only one to have it
            place = waiting.pop(new[0].metadata.reply_to_message_id, None)
            if place is None or _expired(new[0]):
                del new[0]
            else:
                yield place, new.pop(0)
        if over:
            return
        if idle:
            # A grid that waits for progress itself has used this time up.
            time.sleep(max(0.0, _POLL / 2 - (time.monotonic() - started)))


def _expired(reply: Message) -> bool:
    return reply.has_error() and (reply.error.reason or "").startswith(EXPIRED)


def collect(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout: float | None = None,
    on_reply: Callable[[Message], None] = lambda _: None,
) -> list[Message]:
    """Send messages and return the replies that came within ``timeout`` seconds, in the order of the messages.

    The order makes aggregation independent of who answered first. ``on_reply`` is called as each reply comes.
    """
    replies: dict[int, Message] = {}
    for place, reply in exchange(grid, messages, timeout=timeout):
        if reply is not None:
            replies[place] = reply
            on_reply(reply)
    return [replies[place] for place in sorted(replies)]


def answers(
    grid: Grid,
    clients: Mapping[int, int],
    questions: Iterable[Message],
    read: Callable[[int, RecordDict], _T],
    *,
    timeout: float,
) -> tuple[dict[int, _T], dict[int, str]]:
    """Return what each client answered, and why the others did not, as they say it.

    Args:
        grid: where the clients are.
        clients: the client of each node.
        questions: one for each of them.
        read: given a client and the content of its reply, returns the answer; a `ForgeryError` or a `TransportError`
            says why it cannot be used.
        timeout: seconds to wait.
    """
    found: dict[int, _T] = {}
    missing = dict.fromkeys(clients.values(), "no answer")
    for reply in collect(grid, questions, timeout=timeout):
        client = clients.get(reply.metadata.src_node_id)
        if client is None:  # of the SuperLink itself, in the place of a node that was unregistered or went away
            continue
        if reply.has_error():
            missing[client] = reply.error.reason or "no reason given"
            continue
        try:
            found[client] = read(client, reply.content)
        except (ForgeryError, TransportError) as error:
            missing[client] = str(error)
        else:
            del missing[client]
    return found, missing


def cause(reason: str) -> str:
    """Return the message of the exception that a traceback ends with, all lines of it, shortened at its end."""
    lines = reason.strip().splitlines() or ["no reason given"]
    starts = [number for number, line in enumerate(lines) if _EXCEPTION.match(line)]
    text = "\n".join(lines[starts[-1] :]) if starts else lines[-1]
    text = _EXCEPTION.sub("", text, count=1)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def by_client(reasons: Mapping[int, str]) -> str:
    """Return a line or more for each client, with what its reason comes down to."""
    return "\n".join(f"client {client}: {cause(reason)}" for client, reason in sorted(reasons.items()))
