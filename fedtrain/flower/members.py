"""Let a SuperLink know the SuperNodes of a federation's members, and no others.

Run as ``python -m fedtrain.flower.members SERVER HOST:PORT``: it follows the membership in the server's folder until it
is stopped.
"""

import sys
import time
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedtrain.errors import FedtrainError
from fedtrain.machines import ServerFolder, read_membership
from fedtrain.trust import Membership

_PAUSE = 3.0  # seconds between two looks


def synchronize(client: ControlHttpClient, membership: Membership) -> tuple[list[str], list[str]]:
    """Register the SuperNodes of all members, and unregister all others.

    Args:
        client: of the SuperLink's Control API.
        membership: who belongs to the federation.

    Returns:
        What was done; and the members that cannot be registered, because Flower takes a key once, and theirs was
        unregistered before.

    Raises:
        httpx.HTTPError: the SuperLink does not answer, or refuses.
    """
    wanted = {_key(line): membership.names[number] for number, line in membership.supernodes.items()}
    nodes = client.ListNodes(ListNodesRequest()).nodes_info
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
    said = ""
    while True:
        try:
            membership, _ = read_membership(server.membership, server.federation)
            done, refused = synchronize(client, membership)
            for line in done:
                _say(line)
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
