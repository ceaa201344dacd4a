"""Whether a machine has its keys for itself, and whether they are the ones that the operator admitted.

And whether the certificates in a folder hold: for how long, by whom, for which names, and for which key.
"""

import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from fedtrain.crypto import Identity, PublicIdentity
from fedtrain.crypto.secrets import read_secret
from fedtrain.errors import ForgeryError, KeyFileError, SiteError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.machines.federation import Federation, read_membership
from fedtrain.machines.folders import NodeFolder
from fedtrain.machines.request import read_request, supernode_public
from fedtrain.trust import Membership

_Held = TypeVar("_Held")

# A new certificate has to be made, copied and loaded by people.
NOTICE = timedelta(days=30)


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
        made_by: the command that makes it, for an owner who has none.
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


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        KeyFileError: it cannot be read, or holds none.
    """
    return _loaded(path, x509.load_pem_x509_certificate)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read all certificates of a PEM file: those of two authorities while one is renewed.

    Raises:
        KeyFileError: it cannot be read, or holds none.
    """
    return _loaded(path, x509.load_pem_x509_certificates)


def _loaded(path: Path, load: Callable[[bytes], _Held]) -> _Held:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"cannot read the certificate {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise KeyFileError(f"{path} holds no certificate in PEM: {error}") from error


def validity(name: str, certificate: x509.Certificate, now: datetime, *, advice: str) -> Check:
    """Judge when a certificate begins and ends.

    Args:
        name: of the check.
        certificate: the certificate.
        now: the time, with its zone.
        advice: what to do when it ends.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        return fails(
            name,
            f"valid from {begins:%Y-%m-%d %H:%M} UTC on, and this machine's clock says {now:%Y-%m-%d %H:%M}; "
            "set the clock",
        )
    if now > ends:
        return fails(name, f"expired on {ends:%Y-%m-%d %H:%M} UTC; {advice}")
    if ends - now < NOTICE:
        return warns(name, f"expires on {ends:%Y-%m-%d %H:%M} UTC, in {(ends - now).days} days; {advice}")
    return ok(name, f"valid until {ends:%Y-%m-%d}")


def authorities_hold(authorities: Sequence[x509.Certificate], now: datetime, *, advice: str) -> list[Check]:
    """Judge when the authorities of a ``ca.pem`` begin and end.

    The first one is to stay. A former one beside it may end while the authority is renewed: what it issued ends before.

    Args:
        authorities: those that are trusted.
        now: the time, with its zone.
        advice: what to do when the first one ends.
    """
    first, *former = authorities
    checks = [validity("CA", first, now, advice=advice)]
    ended = [one.not_valid_after_utc for one in former if one.not_valid_after_utc < now]
    return checks + [
        warns("former CA", f"expired on {end:%Y-%m-%d %H:%M} UTC; the operator ends the renewal with --finish")
        for end in ended
    ]


def ending(files: Sequence[tuple[str, Path]], now: datetime) -> list[str]:
    """Return a line for each certificate that has ended, or ends soon.

    Args:
        files: what each is, and where; those that are not there, or hold none, are for the doctor.
        now: the time, with its zone.
    """
    lines = []
    for what, path in files:
        with suppress(KeyFileError):
            found = validity(what, read_certificates(path)[0], now, advice="fedtrain doctor says what to do")
            lines += [f"{what}: {found.detail}"] if found.status != "ok" else []
    return lines


def issued(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> Check:
    """Judge whether the CA signed the certificate, or one of two while it is renewed."""
    for ca in authorities:
        with suppress(ValueError, TypeError, InvalidSignature):
            certificate.verify_directly_issued_by(ca)
            return ok("chain", f"server.crt was issued by {ca.subject.rfc4514_string()}")
    return fails(
        "chain",
        f"server.crt was not issued by the CA in ca.pem ({authorities[0].subject.rfc4514_string()}) but by "
        f"{certificate.issuer.rfc4514_string()}, or by one of that name with another key; copy both from one folder "
        "server/ of the operator's",
    )


def covers(certificate: x509.Certificate, host: str) -> Check:
    """Judge whether the certificate names the host (RFC 9525). A name with a wildcard does not."""
    names = _names(certificate)
    if any(_same(name, host) for name in names):
        return ok("names", f"server.crt names {host}")
    return fails(
        "names",
        f"server.crt does not name {host}, which nodes connect to, but {', '.join(map(str, names)) or 'nothing'}; "
        "make one that does with `fedtrain provision rotate-server`",
    )


def opened_by(certificate: x509.Certificate, key: Path) -> Check:
    """Judge whether a private key is the certificate's, and is closed to others."""
    try:
        private = load_pem_private_key(read_secret(key), password=None)
    except KeyFileError as error:
        return fails("TLS key", str(error))
    except (ValueError, TypeError) as error:
        return fails("TLS key", f"{key} holds no private key in unencrypted PEM: {error}")
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        return fails(
            "TLS key", f"{key} is the key of another certificate; copy server.crt and server.key from one place"
        )
    return ok("TLS key", f"{key.name} is the key of server.crt, and only its owner can read it")


def _names(certificate: x509.Certificate) -> Sequence[str | IPv4Address | IPv6Address]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [
        one for one in extension.get_values_for_type(x509.IPAddress) if isinstance(one, IPv4Address | IPv6Address)
    ]
    return [*extension.get_values_for_type(x509.DNSName), *addresses]


def _same(name: str | IPv4Address | IPv6Address, host: str) -> bool:
    try:
        return name == ip_address(host)
    except ValueError:  # a host name
        return isinstance(name, str) and name.lower() == host.lower()
