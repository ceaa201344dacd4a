"""Let a SuperLink know the SuperNodes of a federation's members, and no others; and keep who is connected.

Run as ``python -m fedtrain.flower.members SERVER HOST:PORT``: it follows the membership in the server's folder until it
is stopped. At each look it asks the SuperLink once, whatever the number of nodes, and writes what it saw for a status
(`fedtrain.machines.nodes`); it prints which nodes came and went.
"""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedtrain.errors import FedtrainError
from fedtrain.machines import ServerFolder, read_membership
from fedtrain.machines.nodes import Nodes, NodeState, State, changes, write_nodes
from fedtrain.trust import Membership

_PAUSE = 3.0  # seconds between two looks


def known_nodes(client: ControlHttpClient) -> Sequence[NodeInfo]:
    """Return all nodes that the SuperLink ever knew, by one question.

    Raises:
        httpx.HTTPError: the SuperLink does not answer, or refuses.
    """
    return client.ListNodes(ListNodesRequest()).nodes_info


def node_states(nodes: Sequence[NodeInfo], membership: Membership) -> tuple[NodeState, ...]:
    """Return how each member's node stands, in the order of their numbers."""
    by_key = {node.public_key: node for node in nodes if node.status != "unregistered"}
    return tuple(
        _state(name, client, by_key.get(_key(membership.supernodes[client])))
        for client, name in sorted(membership.names.items())
    )


def _state(name: str, client: int, node: NodeInfo | None) -> NodeState:
    if node is None or node.status not in {"online", "offline"}:
        return NodeState(name=name, client=client, state="never connected")
    online = node.status == "online"
    since = node.last_activated_at if online else node.last_deactivated_at
    heard = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
    return NodeState(
        name=name,
        client=client,
        state="connected" if online else "away",
        since=datetime.fromisoformat(since).timestamp() if since else None,
        seen=heard if heard > 0 else None,
        node=node.node_id,
    )


def synchronize(
    client: ControlHttpClient, nodes: Sequence[NodeInfo], membership: Membership
) -> tuple[list[str], list[str]]:
    """Register the SuperNodes of all members, and unregister all others.

    Args:
        client: of the SuperLink's Control API.
        nodes: all that the SuperLink knows.
        membership: who belongs to the federation.

    Returns:
        What was done; and the members that cannot be registered, because Flower takes a key once, and theirs was
        unregistered before.

    Raises:
        httpx.HTTPError: the SuperLink does not answer, or refuses.
    """
    wanted = {_key(line): membership.names[number] for number, line in membership.supernodes.items()}
    known = {node.public_key: node.node_id for node in nodes if node.status != "unregistered"}
    past = {node.public_key for node in nodes} - known.keys()
    done = []
    for key in known.keys() - wanted.keys():
        client.UnregisterNode(UnregisterNodeRequest(node_id=known[key]))
        done.append(f"unregistered node {known[key]}, which is not a member's")
    for key in wanted.keys() - known.keys() - past:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=wanted[key]))
        done.append(f"registered {wanted[key]}")
    return done, sorted(wanted[key] for key in wanted.keys() & past)


def _key(line: str) -> bytes:
    key: bytes = public_key_to_bytes(load_ssh_public_key(line.encode()))  # type: ignore[arg-type]  # of P-384, as signed
    return key


def main() -> None:
    """Follow the membership."""
    server, address = ServerFolder.open(Path(sys.argv[1])), sys.argv[2]
    connection = SuperLinkConnection(name="fedtrain", address=address, root_certificates=str(server.ca))
    client = init_http_client_from_connection(connection)
    said, before = "", dict[str, State]()
    while True:
        try:
            membership, _ = read_membership(server.membership, server.federation)
            nodes = known_nodes(client)
            done, refused = synchronize(client, nodes, membership)
            states = node_states(nodes, membership)
            write_nodes(server, Nodes(time=time.time(), nodes=states))
            for line in (*done, *changes(before, states)):
                _say(line)
            before = {node.name: node.state for node in states}
            state = f"membership version {membership.version}: {len(membership.names)} members"
            if refused:
                state += (
                    f"; not registered: {', '.join(refused)}, whose SuperNode key was revoked before, and Flower takes "
                    "a key once. On the node, run fedtrain client rotate, and have the request admitted with --rotate"
                )
        except FedtrainError as error:  # somebody copies it just now, or copied another; the nodes stay as they are
            state = f"the membership is not followed: {error}"
        except httpx.HTTPError as error:  # it is started again just now
            state = f"the SuperLink cannot be given the list of members: {error}"
        if state != said:
            said = state
            _say(state)
        time.sleep(_PAUSE)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
