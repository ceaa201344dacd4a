"""Whether a machine has its keys for itself, and whether they are the ones that the operator admitted."""

import stat
from pathlib import Path

from fedtrain.crypto import Identity, PublicIdentity
from fedtrain.errors import ForgeryError, KeyFileError, SiteError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.machines.federation import Federation
from fedtrain.machines.membership import read_membership
from fedtrain.machines.node import NodeFolder
from fedtrain.machines.request import read_request, supernode_public
from fedtrain.trust import Membership


def closed(folder: Path) -> Check:
    """Judge whether the folder is closed to other users. It comes to hold records and models in the clear."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    advice = f"run: chmod 700 {folder}"
    if mode & 0o022:
        return fails("permissions", f"others can write into {folder} (mode {mode:04o}) and replace its keys; {advice}")
    if mode & 0o055:
        return warns("permissions", f"others can look into {folder} (mode {mode:04o}); {advice}")
    return ok("permissions", f"only its owner can use {folder}")


def identity(path: Path, *, made_by: str) -> tuple[Check, PublicIdentity | None]:
    """Read an identity key, and return its public half.

    Args:
        path: the key file.
        made_by: the command that makes it, for who has none.
    """
    try:
        public = Identity.load(path).public
    except KeyFileError as error:
        return fails("identity", f"{error} ({made_by} makes it)"), None
    return ok("identity", f"{path.name}, key {public.key_id[:16]}, only its owner can read it"), public


def supernode_key(node: NodeFolder) -> tuple[Check, str | None]:
    """Read the key of a SuperNode, and return its public half as OpenSSH writes it, without a comment."""
    try:
        public = supernode_public(node)
    except KeyFileError as error:
        return fails("SuperNode key", f"{error} (fedtrain client init makes it)"), None
    return ok("SuperNode key", f"{node.supernode_key.name}, only its owner can read it"), public


def requested(node: NodeFolder, own: PublicIdentity, supernode: str) -> Check:
    """Judge whether the request for the operator is the one that these keys make."""
    try:
        request = read_request(node.request)
    except (ForgeryError, SiteError) as error:
        return fails("request", f"{error}; fedtrain client init writes it anew, with the same keys")
    expected = (node.federation.id, node.name, node.client, own.key, supernode)
    if (request.federation, request.name, request.client, request.identity.key, request.supernode) != expected:
        return fails(
            "request",
            f"{node.request.name} is not of this node and its keys; do not send it: fedtrain client init makes one",
        )
    return ok("request", f"{node.request.name} is of these keys, fingerprint {request.fingerprint}")


def membership(path: Path, federation: Federation) -> tuple[Check, Membership | None]:
    """Verify the signed membership in a file."""
    try:
        found, _ = read_membership(path, federation)
    except SiteError as error:
        return fails("membership", f"{error}; ask the operator for the file again"), None
    clients = len(found.names)
    return ok("membership", f"version {found.version}, {clients} clients, signed by the operator"), found


def admitted(node: NodeFolder, found: Membership, own: PublicIdentity, supernode: str) -> Check:
    """Judge whether the membership holds the node under its name, its number and its own keys.

    It is the newest that this node has seen; the server may have a newer one, and brings it with the next session.
    """
    name, version = "admitted", f"version {found.version} of the membership, the newest that this node has seen,"
    if node.client not in found.names:
        return warns(
            name,
            f"{version} does not hold {node.name}. If it is new: send {node.request.name} to the operator, who runs "
            "fedtrain provision admit (the server brings the next version); if it was a member, it was revoked",
        )
    if found.names[node.client] != node.name:
        return fails(
            name,
            f"client {node.client} is {found.names[node.client]} in the membership, and {node.name} in node.json: they "
            "are of two kits; copy the kit again, and keep the keys",
        )
    if found.roster.clients[node.client].key != own.key or found.supernodes[node.client] != supernode:
        which = "identity" if found.roster.clients[node.client].key != own.key else "SuperNode key"
        return fails(
            name,
            f"{version} holds another {which} for {node.name}: restore this node's key files; or, after fedtrain "
            f"client rotate, send {node.request.name} to the operator, who runs fedtrain provision admit --rotate",
        )
    return ok(name, f"{version} holds {node.name}, client {node.client}, with these keys")


def server_admitted(found: Membership, own: PublicIdentity) -> Check:
    """Judge whether the membership holds the server's own identity."""
    if found.roster.server.key != own.key:
        return fails(
            "admitted",
            "the membership holds another identity of the server, so that no node would talk to this one; copy "
            "membership.json and identity.pem from the operator's folder server/",
        )
    return ok("admitted", "the membership holds this server's identity")
