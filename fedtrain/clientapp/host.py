"""Where a client runs: on a machine of its own, or as one of many on the machine that simulates them."""

from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY

from fedtrain.config import Experiment
from fedtrain.errors import ClientError, ConfigError
from fedtrain.ledger import SitePolicy, client_folder, find_policy, read_policy
from fedtrain.machines import NODE, NodeFolder


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where a client's own files are. Nothing of it is read from a message.

    Attributes:
        client: the client's number.
        node: the folder of its machine; ``None`` in a simulation.
    """

    client: int
    node: NodeFolder | None = None

    def folder(self, experiment: Experiment) -> Path:
        """Return the folder of the client's own files. In a simulation the experiment says where it is.

        Raises:
            ConfigError: there is no place for the files.
        """
        return client_folder(experiment, self.client) if self.node is None else self.node.path

    def policy(self, experiment: Experiment) -> SitePolicy | None:
        """Return what the client allows. A machine of its own has a site file; a simulated client may have none.

        Raises:
            SiteError: the site file cannot be used.
        """
        if self.node is not None:
            return read_policy(self.node.site)
        try:
            return find_policy(client_folder(experiment, self.client))
        except ConfigError:  # no folder is named that could hold a site file
            return None


def host_of(context: Context, experiment: Experiment) -> Host:
    """Return where this client runs, by the configuration of its node, which is set on its machine.

    Raises:
        SiteError: the folder that is named is not that of a node.
        ClientError: the node is neither a machine of its own nor part of a simulation of so many clients.
    """
    folder = context.node_config.get(NODE)
    if folder is not None:
        node = NodeFolder.open(Path(str(folder)))
        return Host(client=node.client, node=node)
    number, nodes = context.node_config.get(PARTITION_ID_KEY), context.node_config.get(NUM_PARTITIONS_KEY)
    if number is None or nodes is None:
        raise ClientError(
            f"this node is not part of a simulation (its node config has no {PARTITION_ID_KEY}), and has no folder of "
            f"its own ({NODE}): start it with fedtrain client up"
        )
    clients = experiment.federation.clients
    if nodes != clients:
        raise ClientError(f"the simulation has {nodes} nodes and federation.clients = {clients}; make them equal")
    return Host(client=int(number))
