"""What runs on separate machines: the folders of server and node, and the processes over them."""

from fedtrain.deployment.federation import Federation
from fedtrain.deployment.membership import read_membership, write_membership
from fedtrain.deployment.node import NODE, NodeFolder
from fedtrain.deployment.server import SERVER_VARIABLE, ServerFolder

__all__ = [
    "NODE",
    "SERVER_VARIABLE",
    "Federation",
    "NodeFolder",
    "ServerFolder",
    "read_membership",
    "write_membership",
]
