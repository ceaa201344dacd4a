"""What the transport of a run was: who could read its updates, and who was lost on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fedtrain.ledger import Asked, Record
from fedtrain.privacy.mechanisms import Seen
from fedtrain.report.schema import RoundEntry


@dataclass(frozen=True, kw_only=True)
class Transport(Seen):
    """What held in a private run so far, by the server's signed record."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """Return what a record allows to say.

        The server signs how it asks before anything is sent. So a round that was asked and never completed counts as
        what it was asked as: clients sent nothing else, if they sent anything. A run that ended early says what held
        in the rounds that it asked, since nobody saw anything of the others; if it goes on, the next report counts them
        all. Where nothing was asked, nothing is said. That a round was completed as it was asked is for the audit to
        check.
        """
        asked = [record for record in records if isinstance(record, Asked)]
        return cls(
            sealed=bool(asked) and all(record.sealed for record in asked),
            summed=any(record.secagg for record in asked),
            only_sums=bool(asked) and all(record.secagg for record in asked),
        )


def summary(rounds: Sequence[RoundEntry]) -> str:
    """Return in one line how many completed rounds were sealed and summed, and how many clients were lost where."""
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
