"""Which client of the federation each node of the grid is."""

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedtrain.engine import LocalGrid
from fedtrain.engine.worker import FIRST_NODE_ID
from fedtrain.errors import ConfigError, RunError
from fedtrain.flower.grids.base import collect
from fedtrain.flower.messages import protocol


def clients_of(grid: Grid, *, clients: int, timeout: float) -> dict[int, int]:
    """Return the client of each node, by node id. The local engine knows it; nodes elsewhere are asked.

    Raises:
        ConfigError: the nodes are not exactly the clients.
        RunError: a node cannot say which client it is.
    """
    if isinstance(grid, LocalGrid):
        numbers = {node: node - FIRST_NODE_ID for node in grid.get_node_ids()}
    else:
        questions = [Message(RecordDict(), node, "query") for node in sorted(grid.get_node_ids())]
        numbers = {}
        for reply in collect(grid, questions, timeout=timeout):
            if reply.has_error():
                raise RunError(f"node {reply.metadata.src_node_id} failed: {reply.error.reason}")
            answer = reply.content.config_records.get(protocol.CLIENT, ConfigRecord()).get(protocol.CLIENT)
            if not isinstance(answer, int):
                raise RunError(f"node {reply.metadata.src_node_id} does not say which client it is")
            numbers[reply.metadata.src_node_id] = answer
    if sorted(numbers.values()) != list(range(clients)):
        raise ConfigError(f"{len(numbers)} nodes answered and federation.clients = {clients}; make them equal")
    return numbers
