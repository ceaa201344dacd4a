"""Ask the SuperLink whether it knows a node's key, without becoming the node, and take leave for one that was killed.

A SuperNode activates its node with a signed request. The SuperLink looks the key up first, then at the interval of the
heartbeats, and only then changes anything (Flower 1.41, ``fleet_handlers.activate_node``). A request with an interval
that is not allowed is thus refused either way, for a reason that tells whether the key is known, and a SuperNode that
runs meanwhile is not disturbed.

A SuperNode that is killed takes no leave. The SuperLink counts it as connected for another minute, and turns its
successor away.
"""

from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
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
_UNKNOWN = "the server answers in a way that this version of fedtrain does not know"


def ask(node: NodeFolder) -> Check:
    """Ask the server that the node pins whether it lets the node's SuperNode in."""
    try:
        private, certificates = _files(node)
    except (KeyFileError, OSError, ValueError) as error:
        return warns(_NAME, f"the server was not asked, since the node's files cannot be used: {error}")
    request = ActivateNodeRequest(public_key=public_key_to_bytes(private.public_key()), heartbeat_interval=_NEVER)
    try:
        with _client(node, private, certificates) as client:
            client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        return judged(error.response.status_code, error.response.text, node.name)
    except (httpx.HTTPError, OSError, UnicodeError) as error:  # also of a name that cannot be one
        return warns(_NAME, f"the server was not asked: {error}")
    except ValueError:  # its answer is none of Flower's
        return warns(_NAME, _UNKNOWN)
    return warns(_NAME, _UNKNOWN)


def leave(node: NodeFolder, number: int) -> bool:
    """Take leave of the server for a SuperNode of this node that was killed, as it would have done itself.

    Call this where no SuperNode of the node runs: the server sends nothing to one that has taken leave.

    Args:
        node: its folder.
        number: the SuperNode's, as the server knows it.

    Returns:
        Whether the server counted it as connected, and does not any more.
    """
    try:
        private, certificates = _files(node)
        with _client(node, private, certificates) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=number))
    except (KeyFileError, httpx.HTTPError, OSError, ValueError):
        return False
    return True


def _files(node: NodeFolder) -> tuple[EllipticCurvePrivateKey, bytes]:
    """Return the SuperNode's key, and the certificate of the server's CA."""
    private = load_ssh_private_key(read_secret(node.supernode_key), password=None)
    if not isinstance(private, EllipticCurvePrivateKey):
        raise KeyFileError(f"{node.supernode_key} is a key of another kind")
    return private, node.ca.read_bytes()


def _client(node: NodeFolder, private: EllipticCurvePrivateKey, certificates: bytes) -> Any:
    signing = NodeAuthHttpInterceptor(private, private.public_key())
    return FleetHttpClient.from_server_address(node.federation.address, False, certificates, [signing])


def judged(status: int, text: str, name: str) -> Check:
    """Judge the SuperLink's refusal.

    Args:
        status: of the answer.
        text: of the answer.
        name: the node's.
    """
    try:
        refusal = FlowerError.from_json(text)
    except (ValueError, RecursionError):  # it may be whatever somebody likes to write
        refusal = None
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
