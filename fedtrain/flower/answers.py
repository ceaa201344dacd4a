"""Ask clients something, and read what they answer."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedtrain.errors import ForgeryError, TransportError
from fedtrain.flower.wrapper import collect

_T = TypeVar("_T")


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
