"""Who a client is, which key it has, and what its ledger holds: what the server asks, and what a client answers."""

from dataclasses import dataclass
from typing import Self

from flwr.app import ConfigRecord, RecordDict

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import Fields, config_in

_QUERY, _ANSWER = "the query", "its answer"


@dataclass(frozen=True, kw_only=True)
class LedgerQuery:
    """What the server asks of a client's ledger.

    Attributes:
        run: id of the run.
        round_number: rounds that were asked so far.
        known: entries that the server knows.
        noise_multiplier: where it is given, clients that take part in secret cohorts reserve the whole run with it.
    """

    run: str
    round_number: int
    known: int
    noise_multiplier: float | None = None

    def to_record(self) -> ConfigRecord:
        """Return it as part of a message."""
        record = ConfigRecord({protocol.RUN: self.run, protocol.ROUND: self.round_number, protocol.KNOWN: self.known})
        if self.noise_multiplier is not None:
            record[protocol.NOISE_MULTIPLIER] = self.noise_multiplier
        return record

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: something is missing or malformed; it names what.
        """
        fields, noise = Fields(content, protocol.LEDGER, what=_QUERY), protocol.NOISE_MULTIPLIER
        return cls(
            run=fields.text(protocol.RUN),
            round_number=fields.whole(protocol.ROUND),
            known=fields.whole(protocol.KNOWN),
            noise_multiplier=fields.number(noise, positive=True) if noise in fields else None,
        )


@dataclass(frozen=True, kw_only=True)
class Query:
    """What the server asks of a client before the rounds, and after them. That it says who it is, it asks always.

    Attributes:
        key: whether the client shows its public key.
        ledger: what it shows of its ledger; ``None`` for nothing.
    """

    key: bool = False
    ledger: LedgerQuery | None = None

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        content = RecordDict()
        if self.key:
            content[protocol.KEY] = ConfigRecord()
        if self.ledger is not None:
            content[protocol.LEDGER] = self.ledger.to_record()
        return content

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: something is malformed; it names what.
        """
        ledger = LedgerQuery.from_records(content) if protocol.LEDGER in content else None
        return cls(key=protocol.KEY in content, ledger=ledger)


@dataclass(frozen=True, kw_only=True)
class ConsistencyProof:
    """The signed entries of a ledger that the server does not know yet, and what the client says about them.

    They prove that the ledger goes on where the server's copy of it ends.

    Attributes:
        key: the client's public key. A server with a roster does not need it.
        entries: the entries after those that the server knows.
        statement: the client's word that this is all; ``None`` where the last entry says as much.
        nonce: opens the commitment to the update that the entries hold, for the server alone; empty without an update.
    """

    key: PublicIdentity
    entries: tuple[SignedEnvelope, ...]
    statement: SignedEnvelope | None
    nonce: bytes = b""

    def to_record(self) -> ConfigRecord:
        """Return it as part of a message."""
        return ConfigRecord(
            {
                protocol.KEY: self.key.encode(),
                protocol.ENTRIES: [entry.line() for entry in self.entries],
                protocol.STATEMENT: b"" if self.statement is None else self.statement.line(),
                protocol.NONCE: self.nonce,
            }
        )

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "ConsistencyProof":
        """Read it from a message. Signatures are not verified here.

        Raises:
            ForgeryError: the record is malformed.
        """
        names = (protocol.KEY, protocol.ENTRIES, protocol.STATEMENT, protocol.NONCE)
        key, entries, statement, nonce = (record.get(name) for name in names)
        whole = isinstance(key, str) and isinstance(entries, list)
        if not (whole and isinstance(statement, bytes) and isinstance(nonce, bytes)):
            raise ForgeryError("the ledger record is malformed: it has a key, entries, a statement and a nonce")
        assert isinstance(key, str)
        assert isinstance(entries, list)
        try:
            public = PublicIdentity.decode(key)
        except ValueError as error:
            raise ForgeryError(f"the ledger record of the reply has an unusable key: {error}") from error
        if not all(isinstance(entry, bytes) for entry in entries):
            raise ForgeryError("the entries in the ledger record of the reply are not lines of a ledger")
        return cls(
            key=public,
            entries=tuple(SignedEnvelope.from_line(entry) for entry in entries if isinstance(entry, bytes)),
            statement=SignedEnvelope.from_line(statement) if statement else None,
            nonce=nonce,
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client answers to a `Query`.

    Attributes:
        client: its number; ``None`` if it does not say.
        key: its public key, if it was asked for.
        ledger: what it shows of its ledger, if it was asked for.
    """

    client: int | None = None
    key: PublicIdentity | None = None
    ledger: ConsistencyProof | None = None

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        content = RecordDict()
        if self.client is not None:
            content[protocol.CLIENT] = ConfigRecord({protocol.CLIENT: self.client})
        if self.key is not None:
            content[protocol.KEY] = ConfigRecord({protocol.KEY: self.key.encode()})
        if self.ledger is not None:
            content[protocol.LEDGER] = self.ledger.to_record()
        return content

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message. Signatures are not verified here.

        Raises:
            TransportError: something is malformed; it names what.
        """
        client, key, ledger = None, None, None
        if protocol.CLIENT in content:
            client = Fields(content, protocol.CLIENT, what=_ANSWER).whole(protocol.CLIENT)
        if protocol.KEY in content:
            text = Fields(content, protocol.KEY, what=_ANSWER).text(protocol.KEY)
            try:
                key = PublicIdentity.decode(text)
            except ValueError as error:
                raise TransportError(f"its key cannot be used: {error}") from error
        if protocol.LEDGER in content:
            try:
                ledger = ConsistencyProof.from_record(config_in(content, protocol.LEDGER, what=_ANSWER))
            except ForgeryError as error:
                raise TransportError(f"its answer cannot be used: {error}") from error
        return cls(client=client, key=key, ledger=ledger)
