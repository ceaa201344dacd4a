"""Which clients may still train, in a fixed order, and which of them were drawn, whom alone a strategy is offered."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from fedtrain.errors import BudgetError, ClientError
from fedtrain.flower.grids.base import GridWrapper

_PAUSE = 0.5  # seconds between two looks at who is connected


class ParticipationGrid(GridWrapper):
    """Charges a client for every message sent to it, answered or not, and hides clients that reached the maximum.

    What the server counts is never less than what clients trained: a client trains only when it is sent a message.
    Nodes are offered in the order of their clients, so that a seeded draw is of the same clients on every runtime.
    Clients that refused are not offered while the others are enough.
    """

    def __init__(
        self,
        inner: Grid,
        *,
        clients: Mapping[int, int],
        maximum: int,
        cohort: int,
        counts: Mapping[int, int],
        refused: Collection[int] = (),
        patience: float = 0.0,
    ) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            clients: the client of each node.
            maximum: messages that one client is sent at most.
            cohort: clients that a round needs.
            counts: messages that clients were sent before.
            refused: clients that refused so far; whoever holds the collection may add to it.
            patience: seconds to wait for clients to connect again, where too few are.
        """
        super().__init__(inner)
        self._nodes = {client: node for node, client in sorted(clients.items(), key=lambda item: item[1])}
        self._clients = dict(clients)
        self._maximum = maximum
        self._cohort = cohort
        self._counts = Counter(counts)
        self._refused = refused
        self._patience = patience

    def get_node_ids(self) -> list[int]:
        """Return the nodes that may still train.

        Raises:
            BudgetError: they are fewer than a cohort; Flower would wait for ever.
            ClientError: they are enough, and too few of them are connected.
        """
        left = [node for client, node in self._nodes.items() if self._counts[client] < self._maximum]
        if len(left) < self._cohort:
            raise BudgetError(
                f"only {len(left)} clients are left for a cohort of {self._cohort}: the others have trained in "
                f"{self._maximum} rounds, all that the privacy plan allows (with secure noise a round that was lost "
                "counts too); begin another run with a higher privacy.max_participations, which means more noise, or "
                "with fewer rounds"
            )
        allowed = self._connected(left)
        willing = [node for node in allowed if self._clients[node] not in self._refused]
        return willing if len(willing) >= self._cohort else allowed

    def _connected(self, nodes: list[int]) -> list[int]:
        """Return those of some nodes that are connected, as soon as they are enough for a cohort."""
        end = time.monotonic() + self._patience
        while len(found := self._online(nodes)) < self._cohort:
            if time.monotonic() >= end:
                away = ", ".join(str(self._clients[node]) for node in nodes if node not in found)
                raise ClientError(
                    f"only {len(found)} clients are connected for a cohort of {self._cohort}; after "
                    f"{self._patience:g} seconds without: {away}. The run can be resumed when they are back"
                )
            time.sleep(_PAUSE)
        return found

    def _online(self, nodes: list[int]) -> list[int]:
        connected = set(self._inner.get_node_ids())
        return [node for node in nodes if node in connected]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Charge the receivers, then send."""
        messages = list(messages)
        self._counts.update(self._clients[message.metadata.dst_node_id] for message in messages)
        return self._inner.push_messages(messages)


class DrawnGrid(GridWrapper):
    """Offers exactly the nodes that were drawn for a round, which may be none. The strategy takes them all."""

    def __init__(self, inner: Grid) -> None:
        super().__init__(inner)
        self._drawn: tuple[int, ...] = ()

    def draw(self, nodes: Iterable[int]) -> None:
        """Set the nodes of the next round."""
        self._drawn = tuple(nodes)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that were drawn."""
        return list(self._drawn)
