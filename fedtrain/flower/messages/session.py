"""The messages about a session: the server offers it or ends it, and a client announces its keys for it."""

from dataclasses import dataclass
from typing import Self

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedtrain.crypto import PublicSealingKey, SignedEnvelope, canonical
from fedtrain.errors import TransportError
from fedtrain.messaging import PROTOCOL
from fedtrain.report.numbers import printable
from fedtrain.trust import Roster

_RECORD = "fedtrain.session"
_OFFER, _END, _ROSTER, _MEMBERSHIP = "offer", "end", "roster", "membership"
_KEYS, _SEALING, _VERSION, _SOFTWARE, _DIRECTIONS = "keys", "sealing", "protocol", "fedtrain", "directions"
_LONGEST = 40  # letters of a version
_HIGHEST = 1 << 31  # of the versions of directions
_SAME_VERSION = "install the same version of fedtrain on both machines"


def is_of_a_session(message: Message) -> bool:
    """Say whether a message offers or ends a session, and does nothing else.

    Raises:
        TransportError: it calls itself so, and carries something else: nothing of it is to reach the application.
    """
    content = message.content
    if _RECORD not in content:
        return False
    alone = list(content) == [_RECORD] and _RECORD in content.config_records
    if not alone or message.metadata.message_type != MessageType.QUERY:
        raise TransportError(
            f"a message about a session is malformed: it is a query with {_RECORD} of configuration values alone"
        )
    return True


def ends_a_session(content: RecordDict) -> bool:
    """Say whether a message about a session ends it."""
    return _END in content.config_records[_RECORD]


@dataclass(frozen=True, kw_only=True)
class OfferedSession:
    """What the server shows a client that it asks for keys.

    Attributes:
        offer: the signed offer.
        roster: the identities that the server pins.
        membership: who belongs to the federation, as the operator signed it; ``None`` in a simulation.
    """

    offer: SignedEnvelope
    roster: Roster
    membership: SignedEnvelope | None = None

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        record = ConfigRecord({_OFFER: self.offer.line(), _ROSTER: canonical(self.roster.as_json())})
        if self.membership is not None:
            record[_MEMBERSHIP] = self.membership.line()
        return RecordDict({_RECORD: record})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message. Signatures are not verified here.

        Raises:
            TransportError: something is missing or malformed; it names what.
            ForgeryError: what is signed is no envelope.
        """
        offer, roster = _signed(content, _OFFER)
        line = content.config_records[_RECORD].get(_MEMBERSHIP)
        membership = SignedEnvelope.from_line(line) if isinstance(line, bytes) else None
        return cls(offer=offer, roster=roster, membership=membership)


@dataclass(frozen=True, kw_only=True)
class EndedSession:
    """What the server shows a client that is to delete the keys of a session.

    Attributes:
        end: the signed end.
        roster: the identities that the server pins.
    """

    end: SignedEnvelope
    roster: Roster

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        return RecordDict({_RECORD: ConfigRecord({_END: self.end.line(), _ROSTER: canonical(self.roster.as_json())})})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message. Signatures are not verified here.

        Raises:
            TransportError: something is missing or malformed; it names what.
            ForgeryError: what is signed is no envelope.
        """
        end, roster = _signed(content, _END)
        return cls(end=end, roster=roster)


@dataclass(frozen=True, kw_only=True)
class AnnouncedKeys:
    """What a client answers to an offer.

    Attributes:
        keys: its public keys of the session, signed.
        sealing: the key to which messages to it are sealed; what it signed has the digest of it.
        software: the version of fedtrain that it says it runs, for people; empty if it says none. Nobody signed it, and
            nothing may depend on it.
        directions: the version of the operator's directions that it says it follows, likewise; 0 for the address of its
            kit, ``None`` if it says none, as in a simulation.
    """

    keys: SignedEnvelope
    sealing: PublicSealingKey
    software: str = ""
    directions: int | None = None

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        record = ConfigRecord({_KEYS: self.keys.line(), _SEALING: self.sealing.key, _VERSION: PROTOCOL})
        if self.software:
            record[_SOFTWARE] = self.software
        if self.directions is not None:
            record[_DIRECTIONS] = self.directions
        return RecordDict({_RECORD: record})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message. The signature is not verified here.

        Raises:
            TransportError: something is missing or malformed, or the client speaks another protocol.
            ForgeryError: what is signed is no envelope.
        """
        record = content.config_records.get(_RECORD, ConfigRecord())
        line, sealing, protocol = record.get(_KEYS), record.get(_SEALING), record.get(_VERSION)
        if not (isinstance(line, bytes) and isinstance(sealing, bytes)):
            raise TransportError("its answer is malformed: it has signed keys and a sealing key")
        if protocol != PROTOCOL:
            raise TransportError(
                f"it speaks protocol {protocol!r}, and this server protocol {PROTOCOL}: {_SAME_VERSION}"
            )
        said = record.get(_SOFTWARE)
        software = printable(said[:_LONGEST]) if isinstance(said, str) else ""
        version = record.get(_DIRECTIONS)
        counts = isinstance(version, int) and not isinstance(version, bool) and 0 <= version < _HIGHEST
        try:
            return cls(
                keys=SignedEnvelope.from_line(line),
                sealing=PublicSealingKey(key=sealing),
                software=software,
                directions=version if isinstance(version, int) and counts else None,
            )
        except ValueError as error:
            raise TransportError(f"its sealing key cannot be used: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ConfirmedEnd:
    """What a client answers that has deleted the keys of a session."""

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        return RecordDict({_RECORD: ConfigRecord()})


def _signed(content: RecordDict, name: str) -> tuple[SignedEnvelope, Roster]:
    record = content.config_records.get(_RECORD, ConfigRecord())
    signed, roster = record.get(name), record.get(_ROSTER)
    if not (isinstance(signed, bytes) and isinstance(roster, bytes)):
        raise TransportError(f"a message about a session is malformed: it has a signed {name} and a roster")
    try:
        return SignedEnvelope.from_line(signed), Roster.decode(roster)
    except ValueError as error:
        raise TransportError(f"the roster in the {name} of a session cannot be used: {error}") from error
