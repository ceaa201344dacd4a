"""The federation's certificate authority, and the server's certificate by it (X.509, RFC 5280)."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedtrain.errors import ConfigError, KeyFileError
from fedtrain.health.keys import NOTICE

_CA_DAYS = 3650
# While an authority is renewed both are trusted, for as long as it takes all nodes to follow.
AUTHORITY_NOTICE = timedelta(days=180)
# A clock that is a little behind does not find a new certificate "not yet valid".
_BEFORE = timedelta(hours=1)
# nginx reaches the SuperLink on the server's own machine, under the same certificate.
_LOCAL = ("localhost", "127.0.0.1")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


def make_ca(federation: str, *, now: datetime) -> Pair:
    """Make a certificate authority that signs servers' certificates and nothing else, valid for ten years.

    Args:
        federation: id of the federation, which goes into its name.
        now: the time, with its zone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"fedtrain federation {federation[:8]}")
    public = key.public_key()
    certificate = (
        _begun(name, name, public, now, days=_CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(ca: Pair, hosts: Iterable[str], *, now: datetime, days: int) -> Pair:
    """Issue a server's certificate, with a new key.

    Args:
        ca: the authority.
        hosts: names and addresses that it is valid for, the first of them its own name.
        now: the time, with its zone.
        days: for how long it is valid, but no longer than the authority.

    Raises:
        ConfigError: one of the hosts is no name and no address.
        KeyFileError: the authority's files cannot be read.
    """
    authority, signer = _opened(ca)
    hosts = list(dict.fromkeys([*hosts, *_LOCAL]))
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _begun(_name(hosts[0][:64]), authority.subject, key.public_key(), now, days=days, until=authority)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pair(certificate, key)


def hosts_of(certificate: bytes) -> tuple[str, ...]:
    """Return the names and addresses that a server's certificate is valid for.

    Raises:
        KeyFileError: it is none.
    """
    try:
        extensions = x509.load_pem_x509_certificate(certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise KeyFileError(f"the server's certificate cannot be read: {error}") from error
    return tuple(str(name.value) for name in names)


def end_of(certificate: bytes) -> datetime:
    """Return when a certificate ends, UTC.

    Raises:
        KeyFileError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        raise KeyFileError(f"the certificate cannot be read: {error}") from error


def expiry_problem(certificate: bytes, what: str, *, now: datetime, notice: timedelta = NOTICE) -> str | None:
    """Return what to say of a certificate's end, ``None`` if it is further away than the notice."""
    try:
        end = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        return f"{what} cannot be read: {error}"
    if end <= now:
        return f"{what} expired on {end:%Y-%m-%d}: no node connects any more"
    if end - now < notice:
        return f"{what} expires on {end:%Y-%m-%d}, in {(end - now).days} days"
    return None


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    *,
    days: int,
    until: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    end = now + timedelta(days=min(days, _CA_DAYS))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(end if until is None else min(end, until.not_valid_after_utc))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise ConfigError(f"{host!r} is no name and no address of a server") from None
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _opened(ca: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(ca.certificate)
        key = load_pem_private_key(ca.key, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"the certificate authority's files cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise KeyFileError("the certificate authority's key, ca.key, is not that of its certificate, ca.pem")
    return certificate, key
