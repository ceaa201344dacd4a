"""What every machine of a federation pins: its id, the operator's key and the server's first address.

Who belongs to it is in the file of a signed membership. Where the operator has moved the server since, or renewed its
certificate authority, signed directions say so.
"""

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError, SiteError
from fedtrain.files import write_atomic
from fedtrain.trust import Directions, Former, Membership
from fedtrain.trust.directions import MOST_BYTES, check_address

SCHEMA = "fedtrain.federation/1"
FILE = "federation.json"
DIRECTIONS = "directions.json"

_ID = re.compile(r"[0-9a-f]{32}")


def resolved(path: Path, what: str) -> Path:
    """Return where a folder really is.

    Args:
        path: the folder.
        what: whose it should be.

    Raises:
        SiteError: its links lead round.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise SiteError(f"{path} is not the folder of a {what}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A federation, as each of its machines knows it. It holds no secret.

    Attributes:
        id: 32 hexadecimal digits.
        address: the server's host and port, as nodes reach it; an IPv6 address in brackets.
        operator: the key that signs who belongs to the federation.
        directions: the version of the directions that the address is from; 0 for the address of the kit.
        former: addresses that the server had, with the times until which they are tried.

    Raises:
        ValueError: the id or the address is malformed.
    """

    id: str
    address: str
    operator: PublicIdentity
    directions: int = 0
    former: tuple[Former, ...] = ()

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"the id of a federation is 32 hexadecimal digits, and not {self.id!r}")
        check_address(self.address)

    @property
    def host(self) -> str:
        """The server's host name or address, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.address.rpartition(":")[2])

    def routes(self, now: datetime) -> tuple[Self, ...]:
        """Return the federation at each address that may be tried, the newest first.

        Args:
            now: the time, with its zone; a former address counts until its own time.
        """
        former = [one.address for one in self.former if now < one.until]
        return tuple(replace(self, address=address, former=()) for address in (self.address, *former))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it from a folder of a server, of a node, or of a kit, with the directions that are there.

        Raises:
            SiteError: it is missing or unreadable, or something else.
        """
        path = folder / FILE
        try:
            pinned = cls._from_json(json.loads(path.read_bytes()))
            found = read_directions(folder / DIRECTIONS, pinned)
            if found is None:
                return pinned
            directions, _ = found
            return replace(pinned, address=directions.address, directions=directions.version, former=directions.former)
        except OSError as error:
            raise SiteError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise SiteError(f"{path} cannot be used: {error}") from error

    @classmethod
    def _from_json(cls, value: object) -> Self:
        match value:
            case {
                "schema": str(schema),
                "id": str(federation),
                "address": str(address),
                "operator": str(key),
                **rest,
            } if not rest and schema == SCHEMA:
                return cls(id=federation, address=address, operator=PublicIdentity.decode(key))
        raise ValueError(f"it must be an object of schema ({SCHEMA}), id, address and operator")

    def write(self, folder: Path) -> None:
        """Write it into a folder, durably.

        Raises:
            StorageError: it cannot be written.
        """
        value = {"schema": SCHEMA, "id": self.id, "address": self.address, "operator": self.operator.encode()}
        write_atomic(folder / FILE, json.dumps(value, indent=2).encode() + b"\n")


def read_directions(path: Path, federation: Federation) -> tuple[Directions, SignedEnvelope] | None:
    """Return the directions in a file, and the envelope that they came in; ``None`` where there is no file.

    Raises:
        SiteError: it cannot be read, or is of another federation, or was not signed by its operator.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise SiteError(f"{path} is larger than any directions")
        envelope = SignedEnvelope.from_line(data)
        return verified_directions(envelope, federation), envelope
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror or error}") from error
    except ForgeryError as error:
        raise SiteError(f"{path} cannot be used: {error}; ask the operator for it again") from error


def verified_directions(envelope: SignedEnvelope, federation: Federation) -> Directions:
    """Return the directions that the operator of a federation signed for it.

    Raises:
        ForgeryError: somebody else signed, or they are no directions, or those of another federation.
    """
    directions = Directions.verify(envelope, federation.operator)
    if directions.federation != federation.id:
        raise ForgeryError(f"the directions are of another federation, {directions.federation}")
    return directions


def read_membership(path: Path, federation: Federation) -> tuple[Membership, SignedEnvelope]:
    """Return the membership in a file, and the envelope that it came in.

    Raises:
        SiteError: it cannot be read, or is of another federation, or was not signed by its operator.
    """
    try:
        envelope = SignedEnvelope.from_line(path.read_bytes())
        membership = Membership.verify(envelope, federation.operator)
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror or error}") from error
    except ForgeryError as error:
        raise SiteError(f"{path} cannot be used: {error}") from error
    if membership.federation != federation.id:
        raise SiteError(f"{path} is the membership of another federation, {membership.federation}")
    return membership, envelope


def write_membership(path: Path, envelope: SignedEnvelope) -> None:
    """Write a signed membership, durably.

    Raises:
        StorageError: it cannot be written; the one before is kept.
    """
    write_atomic(path, envelope.line())
