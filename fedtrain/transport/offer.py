"""A server's signed offer of a session. It holds no key: those come signed with each message."""

import json
from dataclasses import dataclass
from typing import Self

from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError

PAYLOAD_TYPE = "application/vnd.fedtrain.session-offer.v1+json"


@dataclass(frozen=True, kw_only=True)
class SessionOffer:
    """What a client announces keys for.

    Attributes:
        run: id of the run.
        session: id of the session, 32 hexadecimal digits.
        roster: digest of the pinned identities.
    """

    run: str
    session: str
    roster: str

    def sign(self, identity: Identity) -> SignedEnvelope:
        """Sign it as the server."""
        return SignedEnvelope.sign(PAYLOAD_TYPE, self._payload(), identity)

    @classmethod
    def verify(cls, envelope: SignedEnvelope, server: PublicIdentity) -> Self:
        """Return the offer that the server made.

        Raises:
            ForgeryError: another identity signed, or what it signed is no offer.
        """
        data = envelope.verify(server, PAYLOAD_TYPE)
        try:
            match json.loads(data):
                case {"roster": str(roster), "run": str(run), "session": str(session), **rest} if not rest:
                    offer = cls(run=run, session=session, roster=roster)
                case _:
                    raise ForgeryError("the offer of a session is not an object of run, session and roster")
            form = offer._payload()
        except (ValueError, RecursionError) as error:
            raise ForgeryError(f"the offer of a session cannot be read: {error}") from error
        if form != data:
            raise ForgeryError("the offer of a session is not in canonical form (RFC 8785)")
        return offer

    def _payload(self) -> bytes:
        return canonical({"roster": self.roster, "run": self.run, "session": self.session})
