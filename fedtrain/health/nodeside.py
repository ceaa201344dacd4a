"""All checks of a node's folder, in the order in which one depends on the other."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from fedtrain.errors import KeyFileError
from fedtrain.health import certificates
from fedtrain.health.check import Check, fails
from fedtrain.health.keys import admitted, closed, identity, membership, requested, supernode_key
from fedtrain.health.network import reach
from fedtrain.health.site import site
from fedtrain.health.storage import free_space, writable
from fedtrain.health.versions import installed
from fedtrain.machines.node import NodeFolder


def node_checks(node: NodeFolder, ask: Callable[[NodeFolder], Check]) -> Iterator[Check]:
    """Check a node's folder, what is installed, the way to the server, and training on the site's data.

    No ledger entry is made, and nothing of the data leaves.

    Args:
        node: the folder of the node.
        ask: asks the server whether it lets the node in; called if the server is reached and the keys can be used.
    """
    yield installed()
    yield closed(node.path)
    yield writable(node.path)
    yield free_space(node.path)
    usable = True
    for check in _keys(node):
        usable &= check.status != "fails"
        yield check
    for check in reach(node.federation, node.ca):
        usable &= check.status != "fails"
        yield check
    if usable:
        yield ask(node)
    yield from site(node)


def _keys(node: NodeFolder) -> Iterator[Check]:
    try:
        ca = certificates.read_certificate(node.ca)
        advice = "the operator makes a federation anew, and every node needs the new ca.pem"
        yield certificates.validity("CA", ca, datetime.now(UTC), advice=advice)
    except KeyFileError as error:
        yield fails("CA", f"{error}; copy ca.pem from the kit again")
    check, own = identity(node.identity, made_by="fedtrain client init")
    yield check
    check, supernode = supernode_key(node)
    yield check
    if own is not None and supernode is not None:
        yield requested(node, own, supernode)
    check, found = membership(node.membership, node.federation)
    yield check
    if own is not None and supernode is not None and found is not None:
        yield admitted(node, found, own, supernode)
