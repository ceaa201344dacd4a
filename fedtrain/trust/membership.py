"""The membership of a federation, signed by its operator.

Each node pins the operator's key once. What the operator signs later reaches it through anybody, the server included:
a membership of a higher version takes the place of a lower one, and never the other way round. A server that withholds
a newer version from a node that has not seen it can keep a revoked client in its sessions; nobody can add one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedtrain.crypto.canonical import canonical
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.trust.roster import Roster

PAYLOAD_TYPE = "application/vnd.fedtrain.membership.v1+json"

# Names become file names and are printed.
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A version of who belongs to a federation.

    Attributes:
        federation: id of the federation, 32 hexadecimal digits.
        version: from 1; a higher one replaces a lower one.
        names: the name of each client's node.
        supernodes: the key with which each client's node authenticates to the SuperLink, as OpenSSH writes it.
        roster: the identities of server and clients.

    Raises:
        ValueError: names, supernodes and roster are not of the same clients; a name is malformed, or given twice; a key
            of a SuperNode is given twice; or the version is below 1.
    """

    federation: str
    version: int
    names: Mapping[int, str]
    supernodes: Mapping[int, str]
    roster: Roster

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError(f"versions of a membership count from 1, and this is {self.version}")
        if not self.names.keys() == self.supernodes.keys() == self.roster.clients.keys():
            raise ValueError("a membership has a name, an identity and a SuperNode key for each client")
        for kind, values in (("name", self.names.values()), ("SuperNode key", self.supernodes.values())):
            if len(set(values)) < len(values):
                raise ValueError(f"two clients have the same {kind}")
        if strange := [name for name in self.names.values() if not NAME.fullmatch(name)]:
            raise ValueError(f"{strange[0]!r} is not a name: up to 63 letters a to z, digits and hyphens")

    def sign(self, operator: Identity) -> SignedEnvelope:
        """Sign it as the operator."""
        return SignedEnvelope.sign(PAYLOAD_TYPE, self._payload(), operator)

    @classmethod
    def verify(cls, envelope: SignedEnvelope, operator: PublicIdentity) -> Self:
        """Return the membership that the operator signed.

        Raises:
            ForgeryError: somebody else signed, or what was signed is no membership.
        """
        return envelope.read(operator, PAYLOAD_TYPE, what="the membership", parse=cls._parsed, form=cls._payload)

    @classmethod
    def _parsed(cls, value: object) -> Self:
        match value:
            case {
                "clients": dict(clients),
                "federation": str(federation),
                "roster": dict(roster),
                "version": int(version),
                **rest,
            } if not rest and not isinstance(version, bool):
                members = {int(number): _member(entry) for number, entry in clients.items()}
                return cls(
                    federation=federation,
                    version=version,
                    names={client: name for client, (name, _) in members.items()},
                    supernodes={client: key for client, (_, key) in members.items()},
                    roster=Roster.from_json(roster),
                )
        raise ValueError("a membership is an object of federation, version, clients and roster")

    def _payload(self) -> bytes:
        return canonical(
            {
                "clients": {
                    str(client): {"name": name, "supernode": self.supernodes[client]}
                    for client, name in self.names.items()
                },
                "federation": self.federation,
                "roster": self.roster.as_json(),
                "version": self.version,
            }
        )


def _member(entry: object) -> tuple[str, str]:
    match entry:
        case {"name": str(name), "supernode": str(supernode), **rest} if not rest:
            return name, supernode
    raise ValueError("a client of a membership is not an object of name and supernode")
