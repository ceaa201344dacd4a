"""What a client shows of its ledger in a message, and what the server says that it knows of it."""

from dataclasses import dataclass

from flwr.app import ConfigRecord

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError
from fedtrain.flower.messages import protocol


@dataclass(frozen=True, kw_only=True)
class ShownLedger:
    """The signed entries of a ledger that the server does not know yet, and what the client says about them.

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
    def from_record(cls, record: ConfigRecord) -> "ShownLedger":
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
