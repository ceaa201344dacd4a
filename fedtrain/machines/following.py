"""A node follows the directions that the operator signed, and never back to older ones."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import ForgeryError, StorageError
from fedtrain.files import write_atomic
from fedtrain.machines.federation import read_directions, verified_directions
from fedtrain.machines.folders import NodeFolder
from fedtrain.trust import Directions


def follow(node: NodeFolder, envelope: SignedEnvelope) -> Directions | None:
    """Take directions over, durably, in the place of older ones.

    Args:
        node: the node.
        envelope: what somebody says that the operator signed.

    Returns:
        The directions, or ``None`` if the node had them already.

    Raises:
        ForgeryError: the operator did not sign them for this federation, or the node has newer ones, or others of the
            same version.
        SiteError: the directions of the node cannot be read.
        StorageError: they cannot be written.
    """
    directions = verified_directions(envelope, node.federation)
    with _alone(node):
        known = read_directions(node.directions, node.federation)
        if known is not None and directions.version == known[0].version and envelope != known[1]:
            raise ForgeryError(
                f"the directions are of version {directions.version}, and {node.name} has others of the same version: "
                "the operator has signed two, as with a folder put back from an older copy; ask the operator"
            )
        if known is not None and directions.version < known[0].version:
            raise ForgeryError(
                f"the directions are of version {directions.version}, and {node.name} has others of version "
                f"{known[0].version}: ask the operator for the newest ones"
            )
        new = known is None or directions.version > known[0].version
        if new:
            write_atomic(node.directions, envelope.line())
        _settle(node, directions)
        return directions if new else None


def settle(node: NodeFolder) -> None:
    """Make TLS trust whom the directions of a node name, where taking them over was interrupted before that.

    Raises:
        SiteError: the directions cannot be read.
        StorageError: the certificates cannot be written.
    """
    if _unsettled(node) is not None:
        with _alone(node):
            known = _unsettled(node)  # somebody may have followed meanwhile
            if known is not None:
                _settle(node, known)


def _unsettled(node: NodeFolder) -> Directions | None:
    """Return the directions of a node if TLS does not trust whom they name."""
    known = read_directions(node.directions, node.federation)
    return None if known is None or trusts(node, known[0]) else known[0]


def _settle(node: NodeFolder, directions: Directions) -> None:
    if not trusts(node, directions):
        write_atomic(node.ca, directions.certificates)


@contextmanager
def _alone(node: NodeFolder) -> Iterator[None]:
    """Let nobody else write the directions: of two at once the older ones might be written last.

    Raises:
        StorageError: the folder cannot be locked.
    """
    lock = FileLock(node.path / ".directions.lock")
    try:
        lock.acquire()
    except OSError as error:
        raise StorageError(f"cannot lock {node.path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def trusts(node: NodeFolder, directions: Directions) -> bool:
    """Say whether the certificates that a node trusts are those that directions name."""
    try:
        return node.ca.read_bytes() == directions.certificates
    except OSError:
        return False
