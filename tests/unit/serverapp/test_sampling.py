import random

import pytest
from flwr.app import RecordDict

from fedtrain.errors import BudgetError, ClientError
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.sampling import DrawnGrid, FixedSampler
from tests.fakes import InProcessGrid

# Nodes have ids of no order; the clients have.
CLIENTS = {70: 1, 20: 3, 90: 0, 50: 2}
SEED = 5


def sampler(inner=None, *, clients=CLIENTS, maximum=2, cohort=2, counts=(), refused=(), timeout=0.0, **separated):
    return FixedSampler(
        inner or InProcessGrid(lambda _: RecordDict(), sorted(clients)),
        clients=clients,
        maximum=maximum,
        cohort=cohort,
        counts=dict(counts),
        seed=SEED,
        refused=refused,
        timeout=timeout,
        **separated,
    )


def test_nodes_are_available_in_the_order_of_their_clients():
    assert sampler().available(1) == [90, 70, 50, 20]


def test_a_cohort_is_drawn_by_seed_and_round_from_those_that_are_available():
    generator = random.Random(derive_seed(SEED, "cohort", 7))
    assert sampler().draw(7) == generator.sample([90, 70, 50, 20], 2)


def test_a_seeded_draw_is_the_same_whatever_the_ids_of_the_nodes():
    other_ids = {1000: 0, 1001: 1, 1002: 2, 1003: 3}
    first, second = sampler(cohort=3).draw(5), sampler(clients=other_ids, cohort=3).draw(5)
    assert [CLIENTS[node] for node in first] == [other_ids[node] for node in second]


def test_a_draw_charges_and_clients_at_the_maximum_are_drawn_no_more():
    drawing = sampler(maximum=1)
    first = drawing.draw(1)
    assert drawing.available(1) == [node for node in (90, 70, 50, 20) if node not in first]
    assert set(first) | set(drawing.draw(2)) == set(CLIENTS)
    with pytest.raises(BudgetError):
        drawing.draw(3)


def test_a_draw_for_the_same_round_repeats_the_cohort_unless_it_is_charged_again():
    drawing = sampler(maximum=1, recounts=False)
    first = drawing.draw(1)
    assert drawing.draw(1) == drawing.draw(1) == first
    assert set(first).isdisjoint(drawing.draw(2))
    charging = sampler(maximum=1)
    assert set(charging.draw(1)).isdisjoint(charging.draw(1))


def test_cohorts_of_before_count():
    assert sampler(maximum=2, counts={0: 2, 2: 1}).available(1) == [70, 50, 20]


def test_clients_that_refused_are_left_out_while_the_others_are_enough():
    refused = {}
    drawing = sampler(refused=refused)
    refused[0] = "spent"
    assert drawing.available(1) == [70, 50, 20]
    refused.update({1: "spent", 2: "spent"})
    assert drawing.available(1) == [90, 70, 50, 20]


def test_nodes_that_are_not_connected_are_not_available_nor_nodes_that_are_no_client():
    inner = InProcessGrid(lambda _: RecordDict(), [90, 20, 12345])
    assert sampler(inner).available(1) == [90, 20]


def test_too_few_clients_are_an_error_and_not_a_wait_for_ever():
    drawing = sampler(maximum=1, cohort=3, counts={0: 1, 3: 1})
    with pytest.raises(
        BudgetError, match=r"only 2 clients are left for a cohort of 3: .* trained in 1 rounds.*max_part"
    ):
        drawing.draw(2)


@pytest.mark.parametrize("separation", [2, 4])
def test_a_client_that_was_drawn_rests_for_the_separation(separation):
    clients = {100 + client: client for client in range(10)}
    drawing, drawn = sampler(clients=clients, maximum=99, separation=separation), {}
    for number in range(1, 40):
        for node in drawing.draw(number):
            assert number - drawn.get(node, -99) >= separation
            drawn[node] = number
    assert set(drawn) == set(clients)
    # Without it somebody is drawn again at once.
    near = sampler(clients=clients, maximum=99)
    assert any(set(near.draw(number)) & set(near.draw(number + 1)) for number in range(1, 39, 2))


def test_draws_of_before_rest_too_and_too_few_are_an_error_with_the_arithmetic():
    drawing = sampler(maximum=9, separation=3, latest={0: 4, 1: 3, 2: 2})
    assert drawing.available(5) == [50, 20]
    assert drawing.available(6) == [70, 50, 20]
    drawing.draw(5)
    with pytest.raises(
        BudgetError,
        match=r"only 1 clients are left for a cohort of 2 in round 6: of 4 that .* asked in the 2 rounds before, and "
        r"privacy.separation = 3",
    ):
        drawing.draw(6)


class Returning(InProcessGrid):
    """A grid one of whose nodes is away when it is first asked who is connected."""

    asked = 0

    def get_node_ids(self):
        self.asked += 1
        return self.nodes[1:] if self.asked == 1 else self.nodes


def test_a_client_that_is_away_is_waited_for_where_a_cohort_needs_it():
    inner = Returning(lambda _: RecordDict(), sorted(CLIENTS))
    assert sampler(inner, cohort=4, timeout=60.0).available(1) == [90, 70, 50, 20]
    assert inner.asked == 2
    enough = Returning(lambda _: RecordDict(), sorted(CLIENTS))
    assert len(sampler(enough, cohort=3, timeout=60.0).available(1)) == 3


def test_a_client_that_stays_away_ends_the_run_with_its_number():
    inner = InProcessGrid(lambda _: RecordDict(), sorted(CLIENTS)[1:])
    with pytest.raises(
        ClientError, match=r"only 3 clients are connected for a cohort of 4; after 0\.1 seconds without: 3"
    ):
        sampler(inner, cohort=4, timeout=0.1).draw(1)


@pytest.mark.parametrize("drawn", [[50, 90], []])
def test_a_strategy_is_offered_exactly_the_nodes_that_were_drawn(drawn):
    assert DrawnGrid(InProcessGrid(lambda _: RecordDict(), sorted(CLIENTS)), drawn).get_node_ids() == drawn
