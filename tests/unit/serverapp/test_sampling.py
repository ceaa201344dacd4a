import random

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedtrain.errors import BudgetError, ClientError
from fedtrain.flower.grids.base import collect
from fedtrain.serverapp.sampling import ParticipationGrid
from tests.fakes import InProcessGrid

# Nodes have ids of no order; the clients have.
CLIENTS = {70: 1, 20: 3, 90: 0, 50: 2}


def answer(message):
    return RecordDict({"ok": ConfigRecord({"ok": True})})


def grid(inner=None, *, maximum=2, cohort=2, counts=(), patience=0.0):
    inner = inner or InProcessGrid(answer, sorted(CLIENTS))
    return ParticipationGrid(
        inner, clients=CLIENTS, maximum=maximum, cohort=cohort, counts=dict(counts), patience=patience
    )


def send(wrapped, *nodes, timeout=5):
    return collect(wrapped, [Message(RecordDict(), node, "train") for node in nodes], timeout=timeout)


def test_nodes_are_offered_in_the_order_of_their_clients():
    assert list(grid().get_node_ids()) == [90, 70, 50, 20]


def test_a_seeded_draw_is_the_same_whatever_the_ids_of_the_nodes():
    other_ids = {1000: 0, 1001: 1, 1002: 2, 1003: 3}
    other = ParticipationGrid(InProcessGrid(answer, other_ids), clients=other_ids, maximum=2, cohort=2, counts={})
    first = random.Random(5).sample(list(grid().get_node_ids()), 3)
    second = random.Random(5).sample(list(other.get_node_ids()), 3)
    assert [CLIENTS[node] for node in first] == [other_ids[node] for node in second]


def test_clients_at_the_maximum_are_hidden():
    wrapped = grid(maximum=2)
    send(wrapped, 70, 20)
    assert list(wrapped.get_node_ids()) == [90, 70, 50, 20]
    send(wrapped, 70)
    assert list(wrapped.get_node_ids()) == [90, 50, 20]


def test_messages_of_before_count():
    assert list(grid(maximum=2, counts={0: 2, 2: 1}).get_node_ids()) == [70, 50, 20]


def test_nodes_that_are_not_connected_are_not_offered_nor_nodes_that_are_no_client():
    inner = InProcessGrid(answer, [90, 20, 12345])
    assert list(grid(inner).get_node_ids()) == [90, 20]


@pytest.mark.parametrize("reply", [None, Error(1, "failed")])
def test_messages_count_that_were_never_answered_or_failed(reply):
    wrapped = grid(InProcessGrid(lambda _: reply, sorted(CLIENTS)), maximum=1)
    send(wrapped, 90, timeout=0.01)
    assert list(wrapped.get_node_ids()) == [70, 50, 20]


def test_a_message_is_charged_before_it_is_sent():
    class Broken(InProcessGrid):
        def push_messages(self, messages):
            raise OSError("gone after the first")

    wrapped = grid(Broken(answer, sorted(CLIENTS)), maximum=1)
    with pytest.raises(OSError, match="gone"):
        send(wrapped, 90)
    assert list(wrapped.get_node_ids()) == [70, 50, 20]


def test_too_few_clients_are_an_error_and_not_a_wait_for_ever():
    wrapped = grid(maximum=1, cohort=3)
    send(wrapped, 90, 20)
    with pytest.raises(
        BudgetError, match=r"only 2 clients are left for a cohort of 3: .* trained in 1 rounds.*max_part"
    ):
        wrapped.get_node_ids()


class Returning(InProcessGrid):
    """A grid one of whose nodes is away when it is first asked who is connected."""

    asked = 0

    def get_node_ids(self):
        self.asked += 1
        return self.nodes[1:] if self.asked == 1 else self.nodes


def test_a_client_that_is_away_is_waited_for_where_a_cohort_needs_it():
    inner = Returning(answer, sorted(CLIENTS))
    assert list(grid(inner, cohort=4, patience=60.0).get_node_ids()) == [90, 70, 50, 20]
    assert inner.asked == 2
    enough = Returning(answer, sorted(CLIENTS))
    assert len(list(grid(enough, cohort=3, patience=60.0).get_node_ids())) == 3


def test_a_client_that_stays_away_ends_the_run_with_its_number():
    inner = InProcessGrid(answer, sorted(CLIENTS)[1:])
    with pytest.raises(
        ClientError, match=r"only 3 clients are connected for a cohort of 4; after 0\.1 seconds without: 3"
    ):
        grid(inner, cohort=4, patience=0.1).get_node_ids()


def test_a_message_to_a_node_that_is_no_client_is_a_mistake():
    with pytest.raises(KeyError):
        send(grid(), 12345)
