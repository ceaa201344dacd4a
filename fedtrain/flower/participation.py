"""Count every training message against its client, and offer only clients that may still train."""

from collections import Counter
from collections.abc import Iterable, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from fedtrain.errors import BudgetError
from fedtrain.flower.wrapper import GridWrapper


class ParticipationGrid(GridWrapper):
    """Charges a client for every message sent to it, answered or not, and hides clients that reached the maximum.

    What the server counts is never less than what clients trained: a client trains only when it is sent a message.
    """

    def __init__(self, inner: Grid, *, maximum: int, cohort: int, counts: Mapping[int, int]) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            maximum: messages that one node is sent at most.
            cohort: nodes that a round needs.
            counts: messages that nodes were sent before, by node id.
        """
        super().__init__(inner)
        self._maximum = maximum
        self._cohort = cohort
        self._counts = Counter(counts)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that may still train.

        Raises:
            BudgetError: they are fewer than a cohort; Flower would wait for ever.
        """
        allowed = [node for node in self._inner.get_node_ids() if self._counts[node] < self._maximum]
        if len(allowed) < self._cohort:
            raise BudgetError(
                f"only {len(allowed)} clients may still train, a cohort is {self._cohort}: the others have trained in "
                f"privacy.max_participations = {self._maximum} rounds; allow more participations (more noise), or plan "
                "fewer rounds"
            )
        return allowed

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Charge the receivers, then send."""
        messages = list(messages)
        self._counts.update(message.metadata.dst_node_id for message in messages)
        return self._inner.push_messages(messages)
