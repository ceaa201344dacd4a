"""The keys of the server or a client for one session, signed with its identity.

A session is one start of a server for one run. All its keys come from one random secret of 32 bytes that never leaves
the machine that made it; once it is deleted, nobody can open what was sent in the session. The identity key only signs
the public halves: what is pinned is the identity, and session keys are as good as pinned.
"""

import base64
import json
from dataclasses import dataclass
from typing import Self

from fedtrain.crypto.asymmetric import AGREEMENT_KEY_BYTES, AgreementKey, SealingKey, checked_public
from fedtrain.crypto.canonical import canonical
from fedtrain.crypto.envelope import SignedEnvelope
from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.errors import ForgeryError

PAYLOAD_TYPE = "application/vnd.fedtrain.session-keys.v1+json"

SERVER = "server"


def client_name(client: int) -> str:
    """Return the name of a client in a session."""
    return f"client-{client}"


class SessionSecrets:
    """The private keys of a session.

    Attributes:
        sealing: opens what is sent to the owner of the keys.
        masking: agrees with other clients on the masks of secure aggregation.
        sharing: agrees with other clients on keys for the shares of secrets.
    """

    def __init__(self, secret: bytes) -> None:
        """Derive the keys from 32 random bytes."""
        self.sealing = SealingKey(secret)
        self.masking = AgreementKey.derived(secret, "masking")
        self.sharing = AgreementKey.derived(secret, "sharing")


@dataclass(frozen=True, kw_only=True)
class SessionKeys:
    """The announcement of the public keys for a session, signed with an identity.

    Attributes:
        run: id of the run.
        session: id of the session, 32 hexadecimal digits.
        roster: digest of the pinned identities.
        party: ``SERVER`` or the ``client_name`` of a client.
        sealing: hex SHA-256 of its public sealing key, which is sent beside it.
        masking: its public masking key, 32 bytes.
        sharing: its public sharing key, 32 bytes.
    """

    run: str
    session: str
    roster: str
    party: str
    sealing: str
    masking: bytes
    sharing: bytes

    @classmethod
    def of(cls, secrets: SessionSecrets, *, run: str, session: str, roster: str, party: str) -> Self:
        """Return the public halves of the keys."""
        return cls(
            run=run,
            session=session,
            roster=roster,
            party=party,
            sealing=secrets.sealing.public.digest,
            masking=secrets.masking.public,
            sharing=secrets.sharing.public,
        )

    def sign(self, identity: Identity) -> SignedEnvelope:
        """Sign them."""
        return SignedEnvelope.sign(PAYLOAD_TYPE, canonical(self._as_json()), identity)

    @classmethod
    def verify(cls, envelope: SignedEnvelope, public: PublicIdentity) -> Self:
        """Return the keys that the holder of an identity announced.

        Raises:
            ForgeryError: another identity signed, or what it signed is no announcement of keys, or one of them is of
                low order, so that every key agreement with it would fail.
        """
        data = envelope.verify(public, PAYLOAD_TYPE)
        try:
            match json.loads(data):
                case {
                    "masking": str(masking),
                    "party": str(party),
                    "roster": str(roster),
                    "run": str(run),
                    "sealing": str(sealing),
                    "session": str(session),
                    "sharing": str(sharing),
                    **rest,
                } if not rest:
                    keys = cls(
                        run=run,
                        session=session,
                        roster=roster,
                        party=party,
                        sealing=sealing,
                        masking=base64.b64decode(masking, validate=True),
                        sharing=base64.b64decode(sharing, validate=True),
                    )
                case _:
                    raise ForgeryError("the announced session keys are not an object of the seven texts that they have")
            form = canonical(keys._as_json())
        except (ValueError, RecursionError) as error:
            raise ForgeryError(f"the announced session keys cannot be read: {error}") from error
        if len(keys.masking) != AGREEMENT_KEY_BYTES or len(keys.sharing) != AGREEMENT_KEY_BYTES:
            raise ForgeryError(f"the announced session keys hold a key that has not {AGREEMENT_KEY_BYTES} bytes")
        if form != data:
            raise ForgeryError("the announced session keys are not in canonical form (RFC 8785)")
        for purpose, key in (("masking", keys.masking), ("sharing", keys.sharing)):
            try:
                checked_public(key)
            except ValueError as error:
                raise ForgeryError(
                    f"the session keys announced as {keys.party!r} have a {purpose} key that is refused: {error}"
                ) from error
        return keys

    def _as_json(self) -> dict[str, str]:
        return {
            "masking": base64.b64encode(self.masking).decode(),
            "party": self.party,
            "roster": self.roster,
            "run": self.run,
            "sealing": self.sealing,
            "session": self.session,
            "sharing": base64.b64encode(self.sharing).decode(),
        }
