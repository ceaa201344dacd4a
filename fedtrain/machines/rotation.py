"""A node's change of keys: new ones, under which its ledgers go on where they are.

All of it is staged in the folder ``rotation/`` of the node. While that exists, or what is left of it to delete, the
node does not connect, and until the ledgers are signed with the new identity there is no identity in its place that
another process could sign with. Each step looks at what is there and does what is missing, so that a change that was
interrupted is finished by beginning it again. The old keys are deleted last.
"""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fedtrain.crypto import Identity, read_secret
from fedtrain.errors import KeyFileError, StorageError
from fedtrain.files import sync_folder, write_atomic
from fedtrain.ledger.resigning import datasets_of, resign
from fedtrain.machines.folders import NodeFolder
from fedtrain.machines.request import Request, make_keys, read_request, supernode_public


def rotate(node: NodeFolder) -> Request:
    """Give a node new keys, durably, and write its request to be admitted with them.

    The ledgers are signed with the new identity, and kept under ``retired/`` with the id of the old one as they were.
    The old private keys are deleted, with the secrets of sessions that were agreed on with them.

    Args:
        node: the node, which nobody else uses (`fedtrain.deployment.processes.only_one`).

    Returns:
        The request; if all that was left to do was to delete the old keys, that of the change before.

    Raises:
        KeyFileError: a key of the node is missing or cannot be used.
        LedgerError: a ledger is damaged, or another process has it open; the change can be finished afterwards.
        StorageError: a file cannot be written or read; likewise.
    """
    discarded = node.rotated
    try:
        if discarded.exists():
            shutil.rmtree(discarded)
            return read_request(node.request)
        return _rotated(node, discarded)
    except OSError as error:
        raise StorageError(
            f"cannot change the keys of {node.path}: {error.strerror or error}; no key and no ledger is lost, and the "
            "same command goes on from here"
        ) from error


def _rotated(node: NodeFolder, discarded: Path) -> Request:
    if not node.rotation.exists():
        _check(node)
        node.rotation.mkdir(mode=0o700)
        sync_folder(node.path)
    staged, former = replace(node, path=node.rotation), replace(node, path=node.rotation / "old")
    request = make_keys(staged)
    former.path.mkdir(mode=0o700, exist_ok=True)
    for own, taken in ((node.identity, former.identity), (node.supernode_key, former.supernode_key)):
        _take(own, taken)
    old, new = Identity.load(former.identity), Identity.load(staged.identity)
    _resign_all(node, old, new)
    if (node.path / "sessions").exists():
        shutil.rmtree(node.path / "sessions")
    for kept, own in ((staged.identity, node.identity), (staged.supernode_key, node.supernode_key)):
        _install(kept, own)
    write_atomic(node.request, staged.request.read_bytes())
    for torn in (*node.path.glob(".identity.pem.*.tmp"), *node.path.glob(".supernode.pem.*.tmp")):
        torn.unlink()  # a second name of an old key, where making it was interrupted
    # From here on the change is done, and what is left is to delete the old keys.
    node.rotation.rename(discarded)
    sync_folder(node.path)
    shutil.rmtree(discarded)
    return request


def _check(node: NodeFolder) -> None:
    """Refuse to begin with keys that cannot be used, before anything is changed."""
    Identity.load(node.identity)
    supernode_public(node)


def _take(own: Path, taken: Path) -> None:
    """Move an old key out of its place, if that was not done."""
    if not taken.exists():
        own.rename(taken)
        sync_folder(taken.parent)
        sync_folder(own.parent)


def _resign_all(node: NodeFolder, old: Identity, new: Identity) -> None:
    ledgers, retired = node.path / "ledgers", node.path / "retired" / old.public.key_id
    retired.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (node.path, retired.parent):
        sync_folder(folder)
    for dataset in datasets_of(ledgers):
        resign(ledgers, dataset, old=old, new=new, retired=retired)


def _install(kept: Path, own: Path) -> None:
    # A link, since a copy that a crash tore would be a private key that nobody deletes.
    with suppress(FileExistsError):
        own.hardlink_to(kept)
        sync_folder(own.parent)
    if read_secret(own) != read_secret(kept):
        raise KeyFileError(
            f"{own} is neither the key before the change nor the one after it: something wrote it in between. Move it "
            "away, and go on with the same command"
        )
