"""The server's signed record of a run: what was asked of whom, and what came of it, in one hash chain, on its disk.

In client privacy with Poisson cohorts, ``cohort``, ``updates`` and ``dropped`` are empty: the amplification by sampling
holds only while nobody knows who was drawn.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, TypeAdapter

from fedtrain.config.privacy import Mode
from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.files import append_bytes
from fedtrain.ledger.entry import NOTHING, Digest, Name, Noise, Number, Part, Payload, Time, decode, now
from fedtrain.privacy.mechanisms import private

PAYLOAD_TYPE = "application/vnd.fedtrain.run-record.v1+json"


def _promising(mode: str) -> str:
    if not private(mode):
        raise ValueError(f"mode {mode!r} guarantees nothing, and has no record")
    return mode


def _public(key: str) -> str:
    PublicIdentity.decode(key)
    return key


class ChainedRecord(Payload):
    """What each record begins with. The log that it is appended to fills it in.

    Attributes:
        sequence: the place in the record, from 0.
        previous: digest of the line before; 64 zeros for the first.
        time: when it was written, in UTC, by the server's clock. A server that must not tell how long its rounds took
            gives all its records the same time instead.
    """

    sequence: Number = 0
    previous: Digest = NOTHING
    time: Time = ""


class FirstRecord(ChainedRecord):
    """The run begins.

    Attributes:
        kind: "opened".
        run: its id.
        mode: the privacy mode.
        config: digest of its configuration.
        plan: the privacy plan as data.
        noise: where noise comes from.
        roster: digest of the keys that were pinned before. Others may be pinned by `Enrolled`.
        clients: number of clients.
        rounds: planned rounds.
        fedtrain: version of the program.
    """

    kind: Literal["opened"] = "opened"
    run: Name
    mode: Annotated[Mode, AfterValidator(_promising)]
    config: Digest
    plan: dict[str, JsonValue]
    noise: Noise
    roster: Digest
    clients: Number
    rounds: Number
    fedtrain: Name


class ClientKey(Part):
    """The public key that a client showed.

    Attributes:
        client: its number.
        key: the key, in base64.
    """

    client: Number
    key: Annotated[str, AfterValidator(_public)]


class Enrolled(ChainedRecord):
    """Clients showed their keys, which are pinned from here on: in a simulation that asks them when first drawn.

    Attributes:
        kind: "enrolled".
        keys: the key of each.
    """

    kind: Literal["enrolled"] = "enrolled"
    keys: tuple[ClientKey, ...]


class Asked(ChainedRecord):
    """Work is about to be sent. From here on it is charged to each client of the cohort.

    Attributes:
        kind: "asked".
        round: the round, from 1.
        cohort: the clients.
        model: digest of all that they are sent.
        sealed: whether the models and updates of this round are to be encrypted end to end.
        secagg: whether the server is to get the sum of the updates, and no single one.
    """

    kind: Literal["asked"] = "asked"
    round: Number
    cohort: tuple[Number, ...]
    model: Digest
    sealed: bool
    secagg: bool


class Update(Part):
    """An update that entered the aggregate.

    Attributes:
        client: whose it is.
        update: the commitment to it in the client's ledger. A server that receives the update alone compares the two;
            one that receives it masked copies the commitment, and cannot.
        sequence: number of entries of the client's ledger when it arrived.
        head: digest of the last of them.
    """

    client: Number
    update: Digest
    sequence: Number
    head: Digest


class Drop(Part):
    """A client of the cohort whose update did not enter the aggregate, and why."""

    client: Number
    reason: str


class SecureSum(Part):
    """How updates were summed so that the server saw no single one.

    Attributes:
        threshold: shares that were needed to recover a mask.
        neighbours: clients that each client shared masks with.
        bits: bits of a quantized parameter.
        silent: clients whose updates are in the sum, and who did not answer the unmasking.
    """

    threshold: Number
    neighbours: Number
    bits: Number
    silent: tuple[Number, ...]


class Completed(ChainedRecord):
    """A round is complete.

    Attributes:
        kind: "completed".
        round: the round, from 1.
        model: digest of all that the clients were sent.
        updates: what entered the aggregate.
        dropped: what did not.
        sealed: whether models and updates were encrypted end to end, as they were asked for.
        secagg: how the updates were summed; ``None`` if the server saw each. It is set where they were asked for so.
        aggregate: digest of the new global model.
        clip_norm: the clipping norm of this round.
    """

    kind: Literal["completed"] = "completed"
    round: Number
    model: Digest
    updates: tuple[Update, ...]
    dropped: tuple[Drop, ...]
    sealed: bool
    secagg: SecureSum | None
    aggregate: Digest
    clip_norm: float


class Closed(ChainedRecord):
    """The run ends, for good or until it is resumed.

    Attributes:
        kind: "closed".
        status: how it ended.
        rounds: rounds that are complete.
        report: digest of the canonical JSON of the report without its proof.
    """

    kind: Literal["closed"] = "closed"
    status: Literal["completed", "interrupted", "failed"]
    rounds: Number
    report: Digest


Record = Annotated[FirstRecord | Enrolled | Asked | Completed | Closed, Field(discriminator="kind")]
_RECORD: TypeAdapter[FirstRecord | Enrolled | Asked | Completed | Closed] = TypeAdapter(Record)


def enrolled_keys(records: Sequence[Record]) -> dict[int, PublicIdentity]:
    """Return the keys that a record pins after it was opened; of a client that it enrolls twice, the last."""
    return {
        each.client: PublicIdentity.decode(each.key)
        for record in records
        if isinstance(record, Enrolled)
        for each in record.keys
    }


def named_clients(records: Sequence[Record]) -> frozenset[int]:
    """Return every client that a record names: enrolled, asked, used or dropped."""
    named = set[int]()
    for record in records:
        match record:
            case Enrolled():
                named.update(each.client for each in record.keys)
            case Asked():
                named.update(record.cohort)
            case Completed():
                named.update(update.client for update in record.updates)
                named.update(drop.client for drop in record.dropped)
    return frozenset(named)


def read_records(envelopes: Sequence[SignedEnvelope], public: PublicIdentity) -> tuple[Record, ...]:
    """Return the record of a run, verified.

    Of each line are verified: signature, type, canonical form, place and link to the line before; and that the first
    opens the run, and no other.

    Raises:
        ForgeryError: one of these does not hold. It names the record by its place.
    """
    return _read(envelopes, lambda envelope: envelope.verify(public, PAYLOAD_TYPE))


def read_own_records(envelopes: Sequence[SignedEnvelope], identity: Identity) -> tuple[Record, ...]:
    """Do the same with a record of one's own, three times as fast.

    Raises:
        ForgeryError: as `read_records`.
    """
    return _read(envelopes, lambda envelope: envelope.verify_own(identity, PAYLOAD_TYPE))


def _read(envelopes: Sequence[SignedEnvelope], verified: Callable[[SignedEnvelope], bytes]) -> tuple[Record, ...]:
    records: list[Record] = []
    previous = NOTHING
    for number, envelope in enumerate(envelopes):
        try:
            record = decode(_RECORD, verified(envelope))
            _check_link(record, number, previous)
        except ForgeryError as error:
            raise ForgeryError(f"record {number} of the run: {error}") from error
        records.append(record)
        previous = envelope.digest
    return tuple(records)


def _check_link(record: Record, number: int, previous: str) -> None:
    if record.sequence != number:
        raise ForgeryError(f"it is in the place of record {number}, and says that it is {record.sequence}")
    if record.previous != previous:
        raise ForgeryError("it does not follow the line before it: one of the two was replaced")
    if isinstance(record, FirstRecord) != (number == 0):
        raise ForgeryError("the first record opens the run, and no other does")


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
            envelopes = SignedEnvelope.from_lines(data)
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
