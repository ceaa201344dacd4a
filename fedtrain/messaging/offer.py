"""A server's signed offer of a session, and its signed end. Neither holds a key: those come with each message."""

import json
from dataclasses import dataclass
from typing import ClassVar, Self

from fedtrain import __version__
from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError, TransportError

PAYLOAD_TYPE = "application/vnd.fedtrain.session-offer.v1+json"
END_TYPE = "application/vnd.fedtrain.session-end.v1+json"

PROTOCOL = 1
"""The version of the protocol: the content and order of messages. Both sides need the same one."""


@dataclass(frozen=True, kw_only=True)
class SessionOffer:
    """What a client announces keys for.

    Attributes:
        run: id of the run.
        session: id of the session, 32 hexadecimal digits.
        roster: digest of the pinned identities.
        start: which start of the run's server it is, from 1. An offer of an earlier start is a replay.
        protocol: the protocol that the server speaks. Whatever else changes, this field stays what it is.
    """

    run: str
    session: str
    roster: str
    start: int
    protocol: int = PROTOCOL

    payload_type: ClassVar[str] = PAYLOAD_TYPE

    def sign(self, identity: Identity) -> SignedEnvelope:
        """Sign it as the server."""
        return SignedEnvelope.sign(self.payload_type, self._payload(), identity)

    @classmethod
    def verify(cls, envelope: SignedEnvelope, server: PublicIdentity) -> Self:
        """Return the offer that the server made.

        Raises:
            ForgeryError: another identity signed, or what it signed is no offer.
            TransportError: the server speaks another protocol.
        """
        data = envelope.verify(server, cls.payload_type)
        try:
            match json.loads(data):
                case {"protocol": int(protocol)} if protocol != PROTOCOL:
                    raise TransportError(
                        f"the server speaks protocol {protocol} and this client protocol {PROTOCOL} (fedtrain "
                        f"{__version__}): install the version of fedtrain that the server has"
                    )
                case {
                    "protocol": int(protocol),
                    "roster": str(roster),
                    "run": str(run),
                    "session": str(session),
                    "start": int(start),
                    **rest,
                } if not rest and not isinstance(start, bool) and start >= 1 and not isinstance(protocol, bool):
                    offer = cls(run=run, session=session, roster=roster, start=start)
                case _:
                    raise ForgeryError(
                        "the offer of a session is not an object of run, session, roster, protocol and start, from 1"
                    )
            form = offer._payload()
        except (ValueError, RecursionError) as error:
            raise ForgeryError(f"the offer of a session cannot be read: {error}") from error
        if form != data:
            raise ForgeryError("the offer of a session is not in canonical form (RFC 8785)")
        return offer

    def _payload(self) -> bytes:
        return canonical(
            {
                "protocol": self.protocol,
                "roster": self.roster,
                "run": self.run,
                "session": self.session,
                "start": self.start,
            }
        )


class SessionEnd(SessionOffer):
    """What a client deletes its keys for."""

    payload_type = END_TYPE
