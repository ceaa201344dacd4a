import pytest
from flwr.app import ConfigRecord, Context, Error, RecordDict
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY

from clients.app import app
from fedtrain.config import from_flat, to_flat
from fedtrain.errors import ConfigError, RunError
from fedtrain.serverapp.enrollment import clients_of
from tests.fakes import RUN_ID, InProcessGrid

PARTITIONS = {831: 2, 17: 0, 990: 1}


def ask_the_app(message):
    """Answer as a node of another runtime does: through our ClientApp."""
    node = message.metadata.dst_node_id
    config = {PARTITION_ID_KEY: PARTITIONS[node], NUM_PARTITIONS_KEY: len(PARTITIONS)}
    run_config = to_flat(from_flat({"federation.clients": len(PARTITIONS), "federation.cohort": 1}))
    context = Context(RUN_ID, node, config, RecordDict(), run_config)
    return app(message, context)


def test_nodes_of_another_runtime_are_asked_who_they_are():
    grid = InProcessGrid(ask_the_app, PARTITIONS)
    assert clients_of(grid, clients=3, timeout=10) == PARTITIONS
    assert [message.metadata.message_type for message in grid.sent] == ["query"] * 3


@pytest.mark.parametrize("clients", [2, 4])
def test_another_number_of_nodes_than_clients(clients):
    with pytest.raises(ConfigError, match=rf"3 nodes answered and federation.clients = {clients}; make them equal"):
        clients_of(InProcessGrid(ask_the_app, PARTITIONS), clients=clients, timeout=10)


def test_no_nodes():
    with pytest.raises(ConfigError, match="0 nodes answered"):
        clients_of(InProcessGrid(ask_the_app, []), clients=3, timeout=10)


def test_a_node_that_does_not_answer():
    grid = InProcessGrid(
        lambda message: None if message.metadata.dst_node_id == 17 else ask_the_app(message), PARTITIONS
    )
    with pytest.raises(ConfigError, match="2 nodes answered"):
        clients_of(grid, clients=3, timeout=0.1)


def test_a_node_that_fails_is_named_with_its_reason():
    grid = InProcessGrid(lambda _: Error(1, "no partition-id"), PARTITIONS)
    with pytest.raises(RunError, match="node 17 failed: no partition-id"):
        clients_of(grid, clients=3, timeout=10)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"client": ConfigRecord()},
        {"client": ConfigRecord({"client": "0"})},
        {"client": ConfigRecord({"client": [0]})},
        {"client": ConfigRecord({"client": -1})},
        {"client": ConfigRecord({"client": True})},
    ],
)
def test_a_node_that_says_nothing_of_use(content):
    with pytest.raises(RunError, match="node 17 does not say which client it is"):
        clients_of(InProcessGrid(lambda _: RecordDict(dict(content)), PARTITIONS), clients=3, timeout=10)


@pytest.mark.parametrize("claims", [(0, 0, 1), (0, 1, 3)])
def test_two_nodes_that_claim_one_client_or_one_that_does_not_exist(claims):
    claimed = dict(zip(sorted(PARTITIONS), claims, strict=True))

    def answer(message):
        return RecordDict({"client": ConfigRecord({"client": claimed[message.metadata.dst_node_id]})})

    with pytest.raises(ConfigError, match="make them equal"):
        clients_of(InProcessGrid(answer, PARTITIONS), clients=3, timeout=10)
