"""The ledger of one data set on a client's disk: reserve before data is touched, settle before an update leaves.

A crash at any moment leaves the charge of everything that may have been released: what `reserve` returned is on the
disk, and what a crash tore is completed from the intent (`fedtrain.ledger.journal`) and so stays spent. Whatever else
is wrong with the files is refused, and nothing is repaired by guessing.

A process verifies each line once. What it has verified it keeps in memory, and while the file begins with these very
bytes, only the lines after them are verified (docs/decisions/0023).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import BaseFileLock, FileLock, Timeout

from fedtrain.crypto import Identity, SignedEnvelope
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.ledger.chain import EMPTY, Chain, Head, VerifiedLedger, VerifiedLedgers
from fedtrain.ledger.charges import Totals
from fedtrain.ledger.entry import ENTRY, PAYLOAD_TYPE, LedgerEntry, Noise, Unit, decode, now
from fedtrain.ledger.journal import Content, Journal
from fedtrain.ledger.site import SitePolicy
from fedtrain.ledger.statement import PAYLOAD_TYPE as STATEMENT_TYPE
from fedtrain.ledger.statement import StatedRounds, Statement
from fedtrain.privacy import Event

_TIMEOUT = 60.0

_MEMORY = VerifiedLedgers(limit=64 * 2**20)

_ADVICE = (
    "nothing was changed, and nothing is trained on this data set. Restore the file from a copy that is not older (a "
    "server that was shown it and a report keep one); without one, what was spent on the data set is not known"
)


class Ledger:
    """An open ledger. Until it is closed no other process can open it. Made by `Ledger.open`."""

    def __init__(self, path: Path, identity: Identity, timeout: float) -> None:
        self._path = path
        self._identity = identity
        self._timeout = timeout
        self._lock = FileLock(path.with_suffix(".lock"))
        self._read()

    @classmethod
    def open(cls, folder: Path, *, dataset: str, identity: Identity, timeout: float = _TIMEOUT) -> Self:
        """Open the ledger of a data set, FOLDER/DATASET.jsonl, verify it, and complete a torn last line.

        Args:
            folder: where the client keeps its ledgers; made if need be.
            dataset: the data set's digest, 64 hexadecimal digits.
            identity: whose ledger it is.
            timeout: seconds to wait for another process that has it open.

        Raises:
            LedgerError: the ledger is damaged, is of another key or data set, or another process has it open.
            StorageError: it cannot be read or written.
        """
        return cls(folder.absolute() / f"{dataset}.jsonl", identity, timeout)

    def _read(self) -> None:
        """Lock the files, and take over what they hold."""
        path = self._path
        _acquire(self._lock, path.with_suffix(".lock"), self._timeout)
        try:
            known = _MEMORY.take(path, self._identity)
            journal = Journal(path, path.with_suffix(".intent"), known=known.lines)
            if not journal.content.known:
                known = VerifiedLedger()
            envelopes, missing = _recovered(path, journal.content, self._identity, known.chain.head)
            _verify(path, known.chain, envelopes, self._identity)
            self._stated = StatedRounds(path.with_suffix(".stated"))
            if missing:
                journal.complete(missing)
        except BaseException:
            self._lock.release()
            raise
        known.lines += b"".join(envelope.line() for envelope in envelopes)
        self._journal, self._known, self._whole = journal, known, True
        self._count, self._end = len(known.chain.entries), len(known.lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others open the ledger. Nothing can be written after it."""
        if self._lock.is_locked:
            if self._whole:
                _MEMORY.keep(self._path, self._identity, self._known)
            self._lock.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let others open the ledger for as long as a block takes, and then go on with what they left.

        Where the block raises, the ledger stays closed.

        Raises:
            LedgerError: as `open`, at the end of the block; or what the ledger held before is not in it any more.
            StorageError: likewise.
        """
        self._check_open()
        before = self.head
        self.close()
        yield
        self._read()
        if before not in (EMPTY, self._head_after(before.sequence)):
            self.close()
            raise LedgerError(
                f"{self._path} was replaced or cut while the client trained: its first {before.sequence} entries are "
                f"not those of before; the update is not sent; {_ADVICE}"
            )

    def _head_after(self, count: int) -> Head | None:
        """Return where the ledger ended when it had so many entries; ``None`` if it has fewer."""
        if count >= self._count:
            return self.head if count == self._count else None
        return Head(sequence=count, digest=self._known.chain.entries[count].previous)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """What the ledger holds, oldest first."""
        return tuple(self._known.chain.entries[: self._count])

    @property
    def totals(self) -> Totals:
        """What the entries add up to, while the ledger is open."""
        self._check_open()
        return self._known.chain.totals

    @property
    def envelopes(self) -> tuple[SignedEnvelope, ...]:
        """The entries as they were signed."""
        return self.envelopes_from(0)

    def envelopes_from(self, first: int) -> tuple[SignedEnvelope, ...]:
        """Return the entries from a place on, as they were signed."""
        lines, start = self._known.lines, self._end
        for _ in range(max(first, 0), self._count):
            start = lines.rfind(b"\n", 0, start - 1) + 1
        return SignedEnvelope.from_lines(bytes(lines[start : self._end]))

    @property
    def head(self) -> Head:
        """Where the ledger ends."""
        if not self._count:
            return EMPTY
        lines = self._known.lines
        last = lines[lines.rfind(b"\n", 0, self._end - 1) + 1 : self._end]
        return Head(sequence=self._count, digest=sha256(last).hexdigest())

    def reserved(self, *, run: str, round_number: int, plan: str, model: str, event: Event) -> LedgerEntry | None:
        """Return the first reservation of exactly this subject, or ``None`` if there is none.

        For the arguments see `reserve`.
        """
        return self.totals.first((run, round_number, plan, model, event))

    def reserve(
        self,
        *,
        run: str,
        round_number: int,
        plan: str,
        model: str,
        event: Event,
        repeatable: bool,
        unit: Unit,
        noise: Noise,
        permit: Callable[[], None] = lambda: None,
    ) -> LedgerEntry:
        """Charge the data set. When this returns, the charge survives a power failure.

        Args:
            run: id of the run.
            round_number: the round, from 1; 0 for the whole run at once.
            plan: digest of the privacy plan.
            model: digest of all that was received for this round.
            event: what is going to be done to the privacy of the records.
            repeatable: whether the same run, round, plan, model and event give the very same update again, as with
                seeded noise. Then a reservation that has all of them, and unit and noise too, is returned, and not made
                again.
            unit: what the event protects.
            noise: where the randomness of the event comes from.
            permit: called before a charge is made, and not where a reservation is returned that was made before. An
                error that it raises refuses the charge.

        Raises:
            StorageError: it cannot be written; then nothing is reserved.
            LedgerError: this client has stated that it did not train in this round, another process changed the file,
                or the ledger was closed.
        """
        made = self.reserved(run=run, round_number=round_number, plan=plan, model=model, event=event)
        if repeatable and made is not None and (made.unit, made.noise) == (unit, noise):
            return made
        permit()
        if 0 < round_number <= (stated := self._stated.round_of(run)):
            raise LedgerError(
                f"this client has stated that it did not train in round {stated} of this run or before; round "
                f"{round_number} is not reserved, and nothing was trained. A server that goes back to an earlier round "
                "asks its clients for new statements first, when it resumes the run"
            )
        entry = LedgerEntry(
            sequence=self.head.sequence,
            previous=self.head.digest,
            dataset=self._path.stem,
            run=run,
            round=round_number,
            plan=plan,
            model=model,
            update=None,
            event=event,
            unit=unit,
            noise=noise,
            status="reserved",
            time=now(),
        )
        self._append(entry)
        return entry

    def settle(self, reservation: LedgerEntry, update: str) -> LedgerEntry:
        """Note what was made of a reservation. When this returns, it survives a power failure.

        The same update again changes nothing. Reservations that are the same but for their place are interchangeable:
        of two, two updates can be settled.

        Args:
            reservation: as `reserve` returned it.
            update: commitment to what is about to be sent (`fedtrain.crypto.commit`).

        Raises:
            LedgerError: the ledger has no such reservation, or it was settled with another update.
            StorageError: it cannot be written; then the reservation is as it was.
        """
        totals = self.totals
        settled = totals.settlements(reservation)
        for entry in settled:
            if entry.update == update:
                return entry
        unsettled = totals.unsettled(reservation)
        if not unsettled and not settled:
            raise LedgerError(
                f"round {reservation.round} of run {reservation.run} was never reserved in this ledger; its update is "
                "not sent"
            )
        if not unsettled:
            raise LedgerError(
                f"round {reservation.round} of run {reservation.run} was settled with another update "
                f"({settled[-1].update}): each reservation pays for one; this one ({update}) is not sent"
            )
        head = self.head
        link = {"sequence": head.sequence, "previous": head.digest, "time": now()}
        entry = LedgerEntry.model_validate({**dict(reservation), **link, "status": "settled", "update": update})
        self._append(entry)
        return entry

    def statement(
        self,
        *,
        run: str,
        round_number: int,
        policy: SitePolicy,
        refusal: str | None = None,
        time: str | None = None,
        name: str | None = None,
    ) -> SignedEnvelope:
        """Sign that these entries are all there is in this ledger, and what its budget is.

        It binds the client. That it was made is on the disk before this returns, and from then on `reserve` refuses
        this round of the run and those before. A later statement of the run, of a lower round too, takes its place.

        Args:
            run: id of the run in which it is said.
            round_number: the round.
            policy: what the client allows.
            refusal: why the client does not train in it; ``None`` if it does not refuse.
            time: when it is said; by default now.
            name: what the client allows to be called by in reports; ``None`` where it allows no name.

        Raises:
            StorageError: that it was made cannot be written; then nothing was stated.
            LedgerError: the ledger was closed.
        """
        self._check_open()
        statement = Statement(
            run=run,
            round=round_number,
            dataset=self._path.stem,
            sequence=self.head.sequence,
            head=self.head.digest,
            epsilon=policy.epsilon,
            delta=policy.delta,
            refusal=refusal,
            time=time or now(),
            name=name,
        )
        self._stated.note(run, round_number)
        return SignedEnvelope.sign(STATEMENT_TYPE, statement.encode(), self._identity)

    def _append(self, entry: LedgerEntry) -> None:
        self._check_open()
        envelope = SignedEnvelope.sign(PAYLOAD_TYPE, entry.encode(), self._identity)
        # An interrupt may come between any two of these lines: then the next opening reads the file from its beginning.
        self._whole = False
        self._journal.append(envelope.line())
        self._known.chain.append(entry, envelope)
        self._known.lines += envelope.line()
        self._count, self._end = len(self._known.chain.entries), len(self._known.lines)
        self._whole = True

    def _check_open(self) -> None:
        if not self._lock.is_locked:
            raise LedgerError("the ledger is closed; nothing was written")


def _acquire(lock: BaseFileLock, path: Path, timeout: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise LedgerError(
            f"another process has held the ledger of this data set for {timeout:g} s: a run, a node or a command that "
            f"uses the same folder of ledgers. Wait for it to end; the command `fuser {path}` shows which it is"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot lock the ledger {path}: {error.strerror or error}") from error


def _recovered(
    path: Path, content: Content, identity: Identity, before: Head = EMPTY
) -> tuple[tuple[SignedEnvelope, ...], bytes]:
    """Return the lines after a head, with the last completed if a crash tore it, and the bytes that the file lacks."""
    last = before.sequence - 1
    if last >= 0 and not content.lines and not content.tail and content.intent == content.line(last, before=last + 1):
        return (), b""  # the intent is the last line that was verified, byte for byte
    envelopes = []
    for number, line in enumerate(content.lines, start=before.sequence):
        try:
            envelopes.append(SignedEnvelope.from_line(line))
        except ForgeryError as error:
            raise LedgerError(f"{path}, line {number + 1}, is damaged: {error}; {_ADVICE}") from error
    count = before.sequence + len(envelopes)
    intended = _intended(content.intent, identity)
    if intended is None or intended.sequence < count:
        known = intended is None or content.line(intended.sequence, before=before.sequence) == content.intent
        if content.tail or not known:
            what = f"has {len(content.tail)} bytes after its last line" if content.tail else "has another line"
            raise LedgerError(
                f"{path} {what} that {path.with_suffix('.intent').name} does not account for: it was damaged or "
                f"replaced, and not by a crash of this program; {_ADVICE}"
            )
        return tuple(envelopes), b""
    head = envelopes[-1].digest if envelopes else before.digest
    if (intended.sequence, intended.previous) != (count, head):
        raise LedgerError(
            f"{path} ends after {count} entries, and {path.with_suffix('.intent').name} holds entry "
            f"{intended.sequence} of it: entries were removed, or an older copy was put in its place; {_ADVICE}"
        )
    if not content.intent.startswith(content.tail):
        raise LedgerError(
            f"{path} ends in {len(content.tail)} bytes that are not a part of the line that was being written: it was "
            f"damaged, and not by a crash of this program alone; {_ADVICE}"
        )
    completed = SignedEnvelope.from_line(content.intent)
    return (*envelopes, completed), content.intent[len(content.tail) :]


def _intended(line: bytes, identity: Identity) -> LedgerEntry | None:
    """Return the entry of the intent; ``None`` if there is none, or if a crash tore it before an append began."""
    try:
        return decode(ENTRY, SignedEnvelope.from_line(line).verify_own(identity, PAYLOAD_TYPE))
    except ForgeryError:
        return None


def _verify(path: Path, chain: Chain, envelopes: tuple[SignedEnvelope, ...], identity: Identity) -> None:
    """Add lines to what was verified before."""
    try:
        chain.add_own(envelopes, identity)
    except ForgeryError as error:
        raise LedgerError(f"{path} is damaged, or is not this client's ledger: {error}; {_ADVICE}") from error
    if chain.entries and chain.entries[0].dataset != path.stem:
        raise LedgerError(f"{path} is the ledger of another data set, {chain.entries[0].dataset}; {_ADVICE}")
