"""The folders of a federation's machines: what a node and a server keep on disk, and what each approves or requests."""

from fedtrain.machines.federation import Federation, read_directions, read_membership, write_membership
from fedtrain.machines.folders import NODE, SERVER_VARIABLE, NodeFolder, ServerFolder

__all__ = [
    "NODE",
    "SERVER_VARIABLE",
    "Federation",
    "NodeFolder",
    "ServerFolder",
    "read_directions",
    "read_membership",
    "write_membership",
]
