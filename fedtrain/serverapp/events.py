"""What happens in a run, as it happens: events, which the screen, a file and the caller's own function follow.

Events are for the operator of the server. With secret cohorts they show what a report withholds: do not publish them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from fedtrain.report import Evaluation, Metric, Report, RoundEntry
from fedtrain.report.evaluation import CLASSIFICATION


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Everything is prepared, and nothing is trained yet.

    Attributes:
        path: the run folder.
        rounds: rounds of the whole run.
        done: rounds that are complete already, where the run is resumed.
        introduction: what is trained, by whom and under which guarantee, in words.
        owners: the name of each client, where a simulation's clients have names.
    """

    path: Path
    rounds: int
    done: int
    introduction: str
    owners: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RoundStarted:
    """The model of a round is about to be sent to so many clients, which ``cohort`` names."""

    round: int
    clients: int
    cohort: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClientDone:
    """One more client of the round has answered, with an update or an error: ``answered`` of ``clients`` so far.

    ``client`` is which one; ``None`` where it is not known.
    """

    round: int
    answered: int
    clients: int
    client: int | None = None


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A round is complete, and its checkpoint is on the disk.

    Attributes:
        round: the round, from 1.
        entry: what came of it. With secret cohorts the report leaves out who took part, who did not, and for how long.
        evaluation: the central evaluation after it; ``None`` where the round has none.
        epsilon: the largest epsilon that any client has spent so far; ``None`` without privacy.
        metric: how to read what chooses the best model; ``None`` where the task describes no metric.
        baseline: what the best constant answer reaches of that metric; ``None`` where it is not known.
        spent: the epsilon that each client has spent so far, over all runs.
    """

    round: int
    entry: RoundEntry
    evaluation: Evaluation | None
    epsilon: float | None
    metric: Metric | None = CLASSIFICATION[0]
    baseline: float | None = None
    spent: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a person should know, in words.

    One that is ``private`` is read from training records, and is for the screen alone: it is kept nowhere.
    """

    text: str
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The run is over, and its report is written.

    Attributes:
        path: the run folder.
        status: how it ended; one that was interrupted or failed can be resumed.
        reason: why it did not complete; ``None`` if it did.
        round: rounds that are complete.
        report: the report; ``None`` where it could not be written.
        kind: the kind of the error that ended it, where its text may quote what it was about; empty otherwise.
    """

    path: Path
    status: Literal["completed", "interrupted", "failed"]
    reason: str | None
    round: int
    report: Report | None
    kind: str = ""


Event = RunStarted | RoundStarted | ClientDone | RoundDone | Notice | RunEnded
Listener = Callable[[Event], None]


class Display(Protocol):
    """Shows events to a person."""

    def show(self, event: Event) -> None:
        """Show an event."""


class Events:
    """Passes each event to the displays in their order, then to the caller's function.

    An error of the caller's function is kept until the round in progress is saved: to break off a private round would
    spend its epsilon for nothing. After its first error the function is not called again.
    """

    def __init__(self, *displays: Display, listener: Listener | None = None) -> None:
        self._displays = displays
        self._listener = listener
        self.error: Exception | None = None

    def follow(self, *displays: Display) -> None:
        """Pass events to some more displays, from now on."""
        self._displays = (*self._displays, *displays)

    def emit(self, event: Event) -> None:
        """Pass an event on. ``KeyboardInterrupt`` and its like end the run at once, as they do anywhere else."""
        for display in self._displays:
            display.show(event)
        if self._listener is None or self.error is not None:
            return
        try:
            self._listener(event)
        except Exception as error:  # noqa: BLE001 - kept, and raised by `check`
            self.error = error

    def check(self) -> None:
        """Raise the error of the caller's function, if there was one."""
        if self.error is not None:
            raise self.error
