"""How the server of a federation is reached, as its operator signed it: its address, and whose certificates count.

A kit has the first address and the first certificate authority. What the operator signs later reaches a node through
anybody, the server included: directions of a higher version take the place of those of a lower one, and never the other
way round. They change no identity, so that the worst a server gains by withholding them is that nobody finds another.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedtrain.crypto.canonical import canonical
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity

PAYLOAD_TYPE = "application/vnd.fedtrain.directions.v1+json"
MOST_BYTES = 64 * 1024
"""The length of the largest signed directions that are read."""

ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})")
_FORMER, _AUTHORITIES = 8, 4


def check_address(address: str) -> None:
    """Check that an address is one.

    Raises:
        ValueError: it is none.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise ValueError(f"an address is HOST:PORT, for example fl.example.org:9443, and not {address!r}")
    if found[1] is not None:
        try:
            IPv6Address(found[1])
        except ValueError as error:
            raise ValueError(f"in brackets is an IPv6 address, and not {found[1]!r}") from error


@dataclass(frozen=True, kw_only=True)
class Former:
    """An address that the server had.

    Attributes:
        address: host and port.
        until: up to when nodes try it after the newest one; UTC, whole seconds.
    """

    address: str
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority whose servers' certificates count.

    Attributes:
        certificate: its certificate, PEM.
        retires: when the operator means to take it out of use; ``None`` if it stays. It counts until newer directions
            leave it out.
    """

    certificate: str
    retires: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Directions:
    """A version of how the server is reached.

    Attributes:
        federation: id of the federation, 32 hexadecimal digits.
        version: from 1; a higher one replaces a lower one.
        address: the server's host and port.
        former: addresses that it had, which nodes may still try.
        authorities: those whose certificates count, the one that stays first.

    Raises:
        ValueError: the version is below 1, an address is malformed or is there twice, a time is not in whole seconds of
            UTC, there is no authority, or there are too many of something, or one is no certificate authority.
    """

    federation: str
    version: int
    address: str
    former: tuple[Former, ...] = ()
    authorities: tuple[Authority, ...]

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError(f"versions of directions count from 1, and this is {self.version}")
        addresses = [self.address, *(former.address for former in self.former)]
        for address in addresses:
            check_address(address)
        if len(set(addresses)) < len(addresses):
            raise ValueError("an address is there twice")
        if len(self.former) > _FORMER:
            raise ValueError(f"there are more than {_FORMER} former addresses")
        if not 0 < len(self.authorities) <= _AUTHORITIES:
            raise ValueError(f"there are 1 to {_AUTHORITIES} certificate authorities, and not {len(self.authorities)}")
        for authority in self.authorities:
            _check_authority(authority.certificate)
        for moment in (*(one.until for one in self.former), *(one.retires for one in self.authorities)):
            if moment is not None and (moment.tzinfo != UTC or moment.microsecond):
                raise ValueError("times are in whole seconds of UTC")

    @property
    def certificates(self) -> bytes:
        """The certificates of all authorities, PEM, one after the other: what TLS is to trust."""
        return "".join(authority.certificate for authority in self.authorities).encode()

    def sign(self, operator: Identity) -> SignedEnvelope:
        """Sign them as the operator."""
        return SignedEnvelope.sign(PAYLOAD_TYPE, self._payload(), operator)

    @classmethod
    def verify(cls, envelope: SignedEnvelope, operator: PublicIdentity) -> Self:
        """Return the directions that the operator signed.

        Raises:
            ForgeryError: somebody else signed, or what was signed is no directions.
        """
        return envelope.read(operator, PAYLOAD_TYPE, what="the directions", parse=cls._parsed, form=cls._payload)

    @classmethod
    def _parsed(cls, value: object) -> Self:
        match value:
            case {
                "address": str(address),
                "authorities": list(authorities),
                "federation": str(federation),
                "former": list(former),
                "version": int(version),
                **rest,
            } if not rest and not isinstance(version, bool):
                return cls(
                    federation=federation,
                    version=version,
                    address=address,
                    former=tuple(map(_former, former)),
                    authorities=tuple(map(_authority, authorities)),
                )
        raise ValueError("directions are an object of federation, version, address, former and authorities")

    def _payload(self) -> bytes:
        return canonical(
            {
                "address": self.address,
                "authorities": [
                    {"certificate": one.certificate, "retires": "" if one.retires is None else _text(one.retires)}
                    for one in self.authorities
                ],
                "federation": self.federation,
                "former": [{"address": one.address, "until": _text(one.until)} for one in self.former],
                "version": self.version,
            }
        )


def _check_authority(text: str) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise ValueError("a certificate is not that of an authority") from error
    if not constraints.ca:
        raise ValueError("a certificate is not that of an authority")
    if certificate.public_bytes(Encoding.PEM).decode() != text:
        raise ValueError("a certificate is not in its only form")


def _former(value: object) -> Former:
    match value:
        case {"address": str(address), "until": str(until), **rest} if not rest:
            return Former(address=address, until=_moment(until))
    raise ValueError("a former address is not an object of address and until")


def _authority(value: object) -> Authority:
    match value:
        case {"certificate": str(certificate), "retires": str(retires), **rest} if not rest:
            return Authority(certificate=certificate, retires=_moment(retires) if retires else None)
    raise ValueError("an authority is not an object of certificate and retires")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


def _text(moment: datetime) -> str:
    return moment.isoformat()
