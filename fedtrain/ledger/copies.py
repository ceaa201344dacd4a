"""The server's copies of the clients' ledgers, as far as it was shown them: one file for each client.

A copy holds the same lines as the client's own file, verified against the client's pinned key. It only grows. A line
that a crash tore is forgotten: the client shows it again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedtrain.crypto import PublicIdentity, SignedEnvelope
from fedtrain.errors import ForgeryError, LedgerError, StorageError
from fedtrain.files import append_bytes
from fedtrain.ledger.chain import EMPTY, Head, read_chain
from fedtrain.ledger.charges import Totals
from fedtrain.ledger.entry import LedgerEntry
from fedtrain.ledger.statement import Statement, read_statement


class LedgerCopyStore:
    """Copies of the ledgers of many clients in one folder.

    Raises:
        LedgerError: a copy in the folder is damaged.
        StorageError: it cannot be read.
    """

    def __init__(self, folder: Path, keys: Mapping[int, PublicIdentity]) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"copies of ledgers cannot be kept in {folder}: {error.strerror or error}") from error
        self._keys: dict[int, PublicIdentity] = {}
        self._envelopes: dict[int, list[SignedEnvelope]] = {}
        self._entries: dict[int, list[LedgerEntry]] = {}
        self._totals: dict[int, Totals] = {}
        self._holders: defaultdict[str, set[int]] = defaultdict(set)  # the clients of each data set
        self._statements: dict[int, tuple[SignedEnvelope, Statement]] = {}
        self.add(keys)

    def add(self, keys: Mapping[int, PublicIdentity]) -> None:
        """Keep copies of the ledgers of further clients, too, from what is in the folder on.

        Raises:
            LedgerError: a copy in the folder is damaged.
            StorageError: it cannot be read.
        """
        for client, public in keys.items():
            self._keys[client] = public
            self._envelopes[client], self._entries[client], self._totals[client] = [], [], Totals()
            self._load(client)

    def entries(self, client: int) -> tuple[LedgerEntry, ...]:
        """Return the entries that are known of a client, oldest first."""
        return tuple(self._entries[client])

    def totals(self, client: int) -> Totals:
        """Return what they add up to."""
        return self._totals[client]

    def length(self, client: int) -> int:
        """Return how many entries are known of a client."""
        return len(self._entries[client])

    def envelopes(self, client: int) -> tuple[SignedEnvelope, ...]:
        """Return the same as they were signed."""
        return tuple(self._envelopes[client])

    def statement(self, client: int) -> SignedEnvelope | None:
        """Return the newest statement of a client since this object was made; a run that goes on asks for another."""
        return self._statements[client][0] if client in self._statements else None

    def stated(self, client: int) -> Statement | None:
        """Return the same, read."""
        return self._statements[client][1] if client in self._statements else None

    def head(self, client: int) -> Head:
        """Return where the copy of a client's ledger ends."""
        envelopes = self._envelopes[client]
        return Head(sequence=len(envelopes), digest=envelopes[-1].digest) if envelopes else EMPTY

    def receive(
        self, client: int, envelopes: Sequence[SignedEnvelope], statement: SignedEnvelope | None, *, first: int
    ) -> Statement | None:
        """Take over what a client shows: entries from sequence ``first`` on, of which some may be known already.

        Returns the statement, read.

        Raises:
            ForgeryError: a signature or the chain does not hold, or what is shown differs from what was shown before.
            StorageError: it cannot be kept; then nothing of it is.
        """
        known = self._envelopes[client]
        if first > len(known):
            raise ForgeryError(f"client {client} shows entries from {first} on, and only {len(known)} are known")
        overlap = known[first : first + len(envelopes)]
        for number, (old, new) in enumerate(zip(overlap, envelopes, strict=False), start=first):
            if old.digest != new.digest:
                raise ForgeryError(f"client {client} shows another entry {number} than before: its ledger has a fork")
        added = list(envelopes[len(overlap) :])
        entries = read_chain(added, self._keys[client], after=self.head(client))
        dataset = {entry.dataset for entry in [*self._entries[client][:1], *entries]}
        if len(dataset) > 1:
            raise ForgeryError(f"client {client} shows entries of {len(dataset)} data sets as one ledger")
        if others := {other for name in dataset for other in self._holders.get(name, ())} - {client}:
            raise ForgeryError(f"clients {min(others)} and {client} show ledgers of the same data set")
        stated = None if statement is None else read_statement(statement, self._keys[client])
        if stated is not None:
            self._check(client, stated, [*known, *added])
        if added:
            append_bytes(self._file(client), b"".join(envelope.line() for envelope in added))
        known += added
        self._count(client, entries)
        if statement is not None and stated is not None:
            self._statements[client] = (statement, stated)
        return stated

    @staticmethod
    def _check(client: int, statement: Statement, envelopes: Sequence[SignedEnvelope]) -> None:
        head = envelopes[-1].digest if envelopes else EMPTY.digest
        if not statement.covers(len(envelopes), head):
            raise ForgeryError(
                f"client {client} states that its ledger has {statement.sequence} entries, and shows {len(envelopes)}"
            )

    def _load(self, client: int) -> None:
        try:
            data = self._file(client).read_bytes() if self._file(client).exists() else b""
            envelopes = list(SignedEnvelope.from_lines(data))
            self._count(client, read_chain(envelopes, self._keys[client]))
        except OSError as error:
            raise StorageError(f"cannot read {self._file(client)}: {error.strerror or error}") from error
        except ForgeryError as error:
            raise LedgerError(
                f"the copy of client {client}'s ledger in {self._file(client)} is damaged: {error}; remove it, and the "
                "client shows its ledger again"
            ) from error
        self._envelopes[client] = envelopes

    def _count(self, client: int, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            self._entries[client].append(entry)
            self._holders[entry.dataset].add(client)
            self._totals[client].add(entry)

    def _file(self, client: int) -> Path:
        return self._folder / f"client-{client:04d}.jsonl"
