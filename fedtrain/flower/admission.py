"""Ask the SuperLink whether it knows a node's key, without becoming the node.

A SuperNode activates its node with a signed request. The SuperLink looks the key up first, then at the interval of the
heartbeats, and only then changes anything (Flower 1.41, ``fleet_handlers.activate_node``). A request with an interval
that is not allowed is thus refused either way, for a reason that tells whether the key is known, and a SuperNode that
runs meanwhile is not disturbed.
"""

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedtrain.crypto.secrets import read_secret
from fedtrain.errors import KeyFileError
from fedtrain.health import Check, fails, ok, warns
from fedtrain.machines import NodeFolder

_NEVER = 0.0  # seconds between two heartbeats: not allowed

_NAME = "registered"


def ask(node: NodeFolder) -> Check:
    """Ask the server that the node pins whether it lets the node's SuperNode in."""
    try:
        private = load_ssh_private_key(read_secret(node.supernode_key), password=None)
        certificates = node.ca.read_bytes()
    except (KeyFileError, OSError, ValueError) as error:
        return warns(_NAME, f"the server was not asked, since the node's files cannot be used: {error}")
    if not isinstance(private, EllipticCurvePrivateKey):
        return warns(_NAME, "the server was not asked, since the SuperNode's key is of another kind")
    public = private.public_key()
    request = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=_NEVER)
    signing = NodeAuthHttpInterceptor(private, public)
    try:
        with FleetHttpClient.from_server_address(node.federation.address, False, certificates, [signing]) as client:
            client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        return judged(error.response.status_code, error.response.text, node.name)
    except (httpx.HTTPError, OSError) as error:
        return warns(_NAME, f"the server was not asked: {error}")
    return warns(_NAME, "the server answers in a way that this version of fedtrain does not know")


def judged(status: int, text: str, name: str) -> Check:
    """Judge the SuperLink's refusal.

    Args:
        status: of the answer.
        text: of the answer.
        name: the node's.
    """
    refusal = FlowerError.from_json(text)
    if refusal is not None and refusal.code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
        return ok(_NAME, f"the server lets {name} in (it was asked, and nothing was changed)")
    if refusal is not None and refusal.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return fails(
            _NAME,
            f"the server does not know the SuperNode key of {name}: it is not admitted, or was revoked; send "
            "request.json to the operator, who runs fedtrain provision admit and copies the membership to the server",
        )
    if status == httpx.codes.UNAUTHORIZED:
        return fails(_NAME, "the server refuses the signature of the SuperNode key; check the clocks of both machines")
    return warns(_NAME, f"the server was asked, and answers with status {status}; see logs/ on the server")
