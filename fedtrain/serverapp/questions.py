"""What was asked of whom in a run, by its record."""

from collections import Counter
from collections.abc import Sequence

from fedtrain.ledger import Asked, Record


class Questions:
    """What was asked of whom, read from the record as it grows.

    Attributes:
        times: how often each client was asked.
    """

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()
        self._read = 0
        self._highest = 0
        self._cohorts: dict[tuple[int, str], tuple[int, ...]] = {}
        self._distinct: Counter[int] = Counter()

    def read(self, records: Sequence[Record]) -> None:
        """Read the records that are new."""
        for record in records[self._read :]:
            if isinstance(record, Asked):
                self.times.update(record.cohort)
                self._distinct.subtract(self._cohorts.get((record.round, record.model), ()))
                self._distinct.update(record.cohort)
                self._cohorts[record.round, record.model] = record.cohort
                self._highest = max(self._highest, record.round)
        self._read = len(records)

    @property
    def highest(self) -> int:
        """The highest round that anyone was asked in; 0 if there is none."""
        return self._highest

    def distinct(self, *, done: int) -> Counter[int]:
        """Return how often each client was asked in so many rounds, the same question counted once."""
        if done >= self._highest:
            return Counter(self._distinct)
        return Counter(client for (number, _), cohort in self._cohorts.items() if number <= done for client in cohort)

    def latest(self, *, done: int) -> dict[int, int]:
        """Return the highest round up to one that each client was asked in."""
        found: dict[int, int] = {}
        for (number, _), cohort in sorted(self._cohorts.items()):
            if number <= done:
                found.update(dict.fromkeys(cohort, number))
        return found
