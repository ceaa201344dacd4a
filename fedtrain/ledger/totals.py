"""What the entries of a ledger add up to, kept as it grows, so that no question walks through all of them."""

from collections import Counter

from fedtrain.ledger.entry import LedgerEntry
from fedtrain.ledger.payload import Noise, Unit
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
