"""The hash chain of a ledger: nothing in it can be changed, left out, reordered or taken from elsewhere unnoticed.

Each entry names its place and the digest of the line before it. What a chain alone cannot show is whether it goes on:
for that a client states where its ledger ends (`fedtrain.ledger.statement`).

A process keeps what it has verified in memory, so that it verifies no line twice. The very bytes are kept, and not a
digest, a size or a time of the file: a file that was changed can have any size and time. Nothing of this is written
to a disk, and another process begins with nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedtrain.crypto import Identity, PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError
from fedtrain.ledger.charges import Totals
from fedtrain.ledger.entry import ENTRY, NOTHING, PAYLOAD_TYPE, LedgerEntry, decode


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a chain ends.

    Attributes:
        sequence: number of entries.
        digest: of the last line; 64 zeros if there is none.
    """

    sequence: int
    digest: str


EMPTY = Head(sequence=0, digest=NOTHING)


class Chain:
    """The entries of a ledger from its beginning, each verified when it was added, and what they add up to.

    Attributes:
        entries: what was added, oldest first. It only ever grows at its end.
        head: where it ends.
        totals: what the entries add up to.
    """

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.head = EMPTY
        self.totals = Totals()

    def add_own(self, envelopes: Iterable[SignedEnvelope], identity: Identity) -> None:
        """Add lines of a ledger of one's own. They are verified as `read_chain` does it, three times as fast.

        Raises:
            ForgeryError: as `read_chain`. What came before the entry that it names was added.
        """
        self.add(envelopes, lambda envelope: envelope.verify_own(identity, PAYLOAD_TYPE))

    def add(self, envelopes: Iterable[SignedEnvelope], verified: Callable[[SignedEnvelope], bytes]) -> None:
        """Add lines, of each of which a function returns the payload if its signature holds.

        Raises:
            ForgeryError: as `read_chain`. What came before the entry that it names was added.
        """
        for envelope in envelopes:
            with _named(self.head):
                entry = _linked(envelope, verified, self.head, self.entries)
                if entry.status == "settled" and self.totals.unsettled(entry) < 1:
                    raise ForgeryError("it settles what was not reserved, or was settled before")
            self.append(entry, envelope)

    def append(self, entry: LedgerEntry, envelope: SignedEnvelope) -> None:
        """Add an entry that was made for this place, and has just been signed."""
        self.totals.add(entry)
        self.entries.append(entry)
        self.head = Head(sequence=self.head.sequence + 1, digest=envelope.digest)


def read_chain(
    envelopes: Sequence[SignedEnvelope], public: PublicIdentity, *, after: Head = EMPTY
) -> tuple[LedgerEntry, ...]:
    """Return the entries of a ledger, or of its part after a head, verified.

    Of each entry are verified: signature, type, canonical form, place, link to the line before, and that it is about
    the same data set. If the ledger is read from its beginning, also that each settlement follows its reservation, and
    that no reservation is settled twice; a part of a ledger does not show that.

    Raises:
        ForgeryError: one of these does not hold. It names the entry by its place.
    """

    def verified(envelope: SignedEnvelope) -> bytes:
        return envelope.verify(public, PAYLOAD_TYPE)

    if after == EMPTY:
        chain = Chain()
        chain.add(envelopes, verified)
        return tuple(chain.entries)
    entries: list[LedgerEntry] = []
    head = after
    for envelope in envelopes:
        with _named(head):
            entries.append(_linked(envelope, verified, head, entries))
        head = Head(sequence=head.sequence + 1, digest=envelope.digest)
    return tuple(entries)


@contextmanager
def _named(head: Head) -> Iterator[None]:
    """Name the entry in errors about it by its place."""
    try:
        yield
    except ForgeryError as error:
        raise ForgeryError(f"entry {head.sequence}: {error}") from error


def _linked(
    envelope: SignedEnvelope, verified: Callable[[SignedEnvelope], bytes], head: Head, before: Sequence[LedgerEntry]
) -> LedgerEntry:
    """Return the entry of a line, if it is signed, in its place and about the data set of those before."""
    entry = decode(ENTRY, verified(envelope))
    _check_link(entry, head)
    if before:
        _check_dataset(entry, before[0])
    return entry


def _check_link(entry: LedgerEntry, head: Head) -> None:
    if entry.sequence != head.sequence:
        raise ForgeryError(f"it is in the place of entry {head.sequence}, and says that it is entry {entry.sequence}")
    if entry.previous != head.digest:
        raise ForgeryError(
            "it does not follow the line before it: one of the two was replaced, or the ledger has a fork"
        )


def _check_dataset(entry: LedgerEntry, first: LedgerEntry) -> None:
    if entry.dataset != first.dataset:
        raise ForgeryError(f"it is about data set {entry.dataset[:16]}, and not {first.dataset[:16]}")


@dataclass(kw_only=True)
class VerifiedLedger:
    """What was verified of a ledger.

    Attributes:
        lines: its lines, one after another. They only ever grow at their end.
        chain: what they say.
    """

    lines: bytearray = field(default_factory=bytearray)
    chain: Chain = field(default_factory=Chain)


class VerifiedLedgers:
    """What was verified of many ledgers. Those that were used longest ago are forgotten, and verified again."""

    def __init__(self, *, limit: int) -> None:
        """Begin with nothing.

        Args:
            limit: bytes of lines that are kept at most. What they say takes about three times as much.
        """
        self._limit = limit
        self._size = 0
        self._known: OrderedDict[tuple[Path, str], VerifiedLedger] = OrderedDict()

    def take(self, path: Path, identity: Identity) -> VerifiedLedger:
        """Give out what is known of a ledger, to the holder of its lock, and to nobody else meanwhile."""
        known = self._known.pop((path, identity.public.key_id), None)
        if known is None:
            return VerifiedLedger()
        self._size -= len(known.lines)
        return known

    def keep(self, path: Path, identity: Identity, known: VerifiedLedger) -> None:
        """Take back what is known of a ledger, or forget it if it is more than is kept."""
        self._known[path, identity.public.key_id] = known
        self._size += len(known.lines)
        while self._size > self._limit:
            _, forgotten = self._known.popitem(last=False)
            self._size -= len(forgotten.lines)
