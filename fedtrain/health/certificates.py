"""Whether the certificates in a folder hold: for how long, by whom, for which names, and for which key."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from fedtrain.crypto.secrets import read_secret
from fedtrain.errors import KeyFileError
from fedtrain.health.check import Check, fails, ok, warns

# A new certificate has to be made, copied and loaded by people.
NOTICE = timedelta(days=30)


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        KeyFileError: it cannot be read, or holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
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


def issued(certificate: x509.Certificate, ca: x509.Certificate) -> Check:
    """Judge whether the CA signed the certificate."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return fails(
            "chain",
            f"server.crt was not issued by the CA in ca.pem ({ca.subject.rfc4514_string()}) but by "
            f"{certificate.issuer.rfc4514_string()}; copy both from one `fedtrain provision rotate-server`",
        )
    return ok("chain", f"server.crt was issued by {ca.subject.rfc4514_string()}")


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
