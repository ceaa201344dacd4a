"""The server's record of a run on its disk."""

from pathlib import Path
from typing import Self

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.files import append_bytes
from fedtrain.ledger.payload import NOTHING, now
from fedtrain.ledger.record import PAYLOAD_TYPE, Record, read_own_records


class RunLog:
    """The record of one run. Who uses it holds the lock of the run folder. Made by `RunLog.open`.

    Attributes:
        records: what it holds, oldest first.
        envelopes: the same as it was signed.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        envelopes: tuple[SignedEnvelope, ...] = (),
        records: tuple[Record, ...] = (),
    ) -> None:
        self._path = path
        self._identity = identity
        self.envelopes = envelopes
        self.records = records

    @classmethod
    def open(cls, path: Path, identity: Identity) -> Self:
        """Open the record of a run, which may not be there yet, and verify all of it.

        What follows the last complete line is what a crash left of an append that did not return. It is not read, and
        the next append removes it.

        Raises:
            LedgerError: the record is damaged, or signed with another key.
            StorageError: it cannot be read.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls(path, identity)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            lines = data.split(b"\n")[:-1]
            envelopes = tuple(SignedEnvelope.from_line(line + b"\n") for line in lines)
            return cls(path, identity, envelopes, read_own_records(envelopes, identity))
        except ForgeryError as error:
            raise LedgerError(
                f"the record {path} is damaged, or is not of this server: {error}; restore it from a copy, or begin "
                "another run"
            ) from error

    def append(self, record: Record) -> Record:
        """Append a record, durably; its place and link are filled in, and its time if it has none. Return it as signed.

        A record that has a time keeps it: how long a round took can tell who took part in it.

        Raises:
            StorageError: it cannot be written; then the file has its previous lines.
            ValueError: it does not open the record as the first, or opens it again.
        """
        if (record.kind == "opened") != (not self.records):
            raise ValueError("the first record opens the run, and no other does")
        previous = self.envelopes[-1].digest if self.envelopes else NOTHING
        link = {"sequence": len(self.records), "previous": previous, "time": record.time or now()}
        record = record.model_copy(update=link)
        envelope = SignedEnvelope.sign(PAYLOAD_TYPE, record.encode(), self._identity)
        append_bytes(self._path, envelope.line())
        self.envelopes = (*self.envelopes, envelope)
        self.records = (*self.records, record)
        return record
