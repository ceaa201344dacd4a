"""What a client shows of its ledger in a message, and what the server says that it knows of it."""

from dataclasses import dataclass

from flwr.app import ConfigRecord

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError
from fedtrain.flower import protocol


@dataclass(frozen=True, kw_only=True)
class ShownLedger:
    """The signed entries of a ledger that the server does not know yet, and what the client says about them.

    Attributes:
        key: the client's public key. A server with a roster does not need it.
        entries: the entries after those that the server knows.
        statement: the client's word that this is all; ``None`` where the last entry says as much.
    """

    key: PublicIdentity
    entries: tuple[SignedEnvelope, ...]
    statement: SignedEnvelope | None

    def to_record(self) -> ConfigRecord:
        """Return it as part of a message."""
        return ConfigRecord(
            {
                protocol.KEY: self.key.encode(),
                protocol.ENTRIES: [entry.line() for entry in self.entries],
                protocol.STATEMENT: b"" if self.statement is None else self.statement.line(),
            }
        )

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "ShownLedger":
        """Read it from a message. Signatures are not verified here.

        Raises:
            ForgeryError: the record is malformed.
        """
        key, entries, statement = (record.get(name) for name in (protocol.KEY, protocol.ENTRIES, protocol.STATEMENT))
        if not (isinstance(key, str) and isinstance(entries, list) and isinstance(statement, bytes)):
            raise ForgeryError("the ledger record of the reply is malformed: it has a key, entries and a statement")
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
        )
