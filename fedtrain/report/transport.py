"""What the transport of a run was: who could read its updates, and who was lost on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fedtrain.ledger import Asked, Completed, Opened, Record
from fedtrain.report.schema import RoundEntry


@dataclass(frozen=True, kw_only=True)
class Transport:
    """What held in a private run, by the server's signed record.

    Attributes:
        sealed: in every round, what was sent was encrypted end to end.
        summed: in some round, the server saw the sum of the updates alone, and could not clip them.
        only_sums: in every round, it did.
    """

    sealed: bool
    summed: bool
    only_sums: bool

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """Return what a record allows to say.

        A record says of a round that it was sealed or summed when the round completes. As long as one is to come, or
        was asked and never completed, nothing is said of every round.
        """
        planned = next((record.rounds for record in records if isinstance(record, Opened)), 0)
        completed = [record for record in records if isinstance(record, Completed)]
        asked = sum(isinstance(record, Asked) for record in records)
        whole = 0 < asked == len(completed) and len({record.round for record in completed}) == planned
        return cls(
            sealed=whole and all(record.sealed for record in completed),
            summed=any(record.secagg is not None for record in completed),
            only_sums=whole and all(record.secagg is not None for record in completed),
        )


def summary(rounds: Sequence[RoundEntry]) -> str:
    """Return in one line how many of the rounds were sealed and summed, and how many clients were lost where."""
    if not rounds:
        return "no round was completed"
    sums = [entry.secagg for entry in rounds if entry.secagg is not None]
    text = f"encrypted end to end {_times(sum(entry.sealed for entry in rounds), len(rounds))}; "
    if not sums:
        return f"{text}the server saw single updates"
    text += f"the server saw the sum of the updates alone {_times(len(sums), len(rounds))}; "
    masking, unmasking = sum(entry.lost_masking for entry in sums), sum(entry.lost_unmasking for entry in sums)
    if not masking + unmasking:
        return f"{text}no client was lost"
    return f"{text}clients lost before their update was in the sum: {masking}, after: {unmasking}"


def _times(held: int, rounds: int) -> str:
    if held == rounds:
        return "in every round"
    return "in no round" if not held else f"in {held} of {rounds} rounds"
