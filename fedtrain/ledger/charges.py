"""What is charged to a data set: the sums of its ledger, kept as it grows, and the rounds that no ledger shows."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from fedtrain.ledger.entry import LedgerEntry, Noise, Unit
from fedtrain.ledger.record import Asked, FirstRecord, Record
from fedtrain.ledger.statement import Statement
from fedtrain.privacy import Event, merge

Subject = tuple[str, int, str, str, Event]
Charge = tuple[Subject, Unit, Noise]


class Totals:
    """The sums of a ledger from its beginning. Reservations are charged, settled or not."""

    def __init__(self) -> None:
        self._first: dict[Subject, LedgerEntry] = {}
        self._reserved: Counter[Charge] = Counter()
        self._settled: dict[Charge, list[LedgerEntry]] = {}
        self._kinds: dict[tuple[Unit, Noise], None] = {}
        self._times: Counter[str] = Counter()
        self._latest: dict[str, int] = {}
        self._events: dict[str, tuple[Event, ...]] = {}

    def add(self, entry: LedgerEntry) -> None:
        """Count one more entry."""
        if entry.status == "settled":
            self._settled.setdefault(entry.charge, []).append(entry)
            return
        self._first.setdefault(entry.subject, entry)
        self._reserved[entry.charge] += 1
        self._kinds[entry.unit, entry.noise] = None
        self._times[entry.run] += 1
        self._latest[entry.run] = max(entry.round, self._latest.get(entry.run, 0))
        self._events[entry.run] = merge((*self._events.get(entry.run, ()), entry.event))

    def first(self, subject: Subject) -> LedgerEntry | None:
        """Return the first reservation of exactly this subject, or ``None`` if there is none."""
        return self._first.get(subject)

    def unsettled(self, entry: LedgerEntry) -> int:
        """Return how many reservations that are the same as an entry but for their place are not settled."""
        return self._reserved[entry.charge] - len(self.settlements(entry))

    def settlements(self, entry: LedgerEntry) -> tuple[LedgerEntry, ...]:
        """Return what the reservations that are the same as an entry but for their place were settled with."""
        return tuple(self._settled.get(entry.charge, ()))

    def reservations(self, run: str) -> int:
        """Return how many reservations a run has made."""
        return self._times[run]

    def latest(self, run: str) -> int:
        """Return the highest round that a run has reserved; 0 if there is none."""
        return self._latest.get(run, 0)

    @property
    def kinds(self) -> tuple[tuple[Unit, Noise], ...]:
        """What the charges protect, and where their noise comes from: each pair once, in the order of the ledger."""
        return tuple(self._kinds)

    @property
    def events(self) -> tuple[Event, ...]:
        """All that is charged, those of one mechanism joined."""
        return merge(event for events in self._events.values() for event in events)

    def events_of(self, run: str) -> tuple[Event, ...]:
        """Return what one run has charged, likewise."""
        return self._events.get(run, ())

    def events_besides(self, run: str) -> tuple[Event, ...]:
        """Return what all other runs have charged, likewise."""
        return merge(event for other, events in self._events.items() if other != run for event in events)


def unanswered(
    client: int,
    records: Sequence[Record],
    entries: Sequence[LedgerEntry],
    statement: Statement | None,
    *,
    noise: Literal["seeded", "secure"],
) -> tuple[int, ...]:
    """Return the rounds in which a client was asked and may have trained, without a reservation that is known.

    A client that does not answer may have released all the same, to a reader of its messages. So a round is charged
    as soon as the client is asked, unless it signed, in this round or later, that its ledger ends where the known one
    ends: then it reserved nothing, and did not train.

    With seeded noise the same request again gives the same update, and counts once. With secure noise each request
    needs a reservation of its own.

    Args:
        client: the number of the client.
        records: the run's record from its beginning; several runs are not allowed.
        entries: the client's ledger as far as it is known.
        statement: the client's newest statement, if there is one. The caller has verified it, and that its ``head`` is
            the digest of the last line of the ledger where ``sequence`` is the number of entries.
        noise: where the clients' noise comes from.

    Returns:
        Rounds in ascending order; one that counts twice is there twice.
    """
    runs = [record.run for record in records if isinstance(record, FirstRecord)]
    if len(runs) != 1:
        raise ValueError(f"a record is of one run, and this has {len(runs)} first records")
    run = runs[0]
    stated = -1
    if statement is not None and statement.run == run and statement.sequence == len(entries):
        stated = statement.round
    reserved = Counter(
        (entry.round, entry.model) for entry in entries if entry.run == run and entry.status == "reserved"
    )
    asked = [
        (record.round, record.model) for record in records if isinstance(record, Asked) and client in record.cohort
    ]
    if noise == "seeded":
        asked = list(dict.fromkeys(asked))
    charged = []
    for request in asked:
        if reserved[request]:
            # With secure noise it is used up.
            reserved[request] -= 1
        elif request[0] > stated:
            charged.append(request[0])
    return tuple(sorted(charged))
