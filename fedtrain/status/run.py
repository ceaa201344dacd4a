"""Where a run stands: the lines of its file, added up one by one. Pure functions; the time now is an argument."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from fedtrain.report.numbers import printable
from fedtrain.status.lines import Answered, Asked, Begun, Done, Ended, Line, Note

KEPT = 200
"""Rounds, and problems and notices, that are remembered."""

_LATE = 1.5  # times as long as a round takes on average
_FIRST_LATE = 0.5  # of the deadline, where there is no round to compare with

State = Literal["running", "completed", "interrupted", "failed", "gone"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round that is complete; what is secret or was not measured is ``None``."""

    round: int
    clients: int | None
    completed: int | None
    seconds: float | None
    value: float | None
    epsilon: float | None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A client that gave no result in a round, and why."""

    time: float
    round: int
    client: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        begun: the line with which this start of the server began.
        state: how it goes; ``gone`` is a run whose server ended without a word, as one that was killed.
        reason: why it did not complete.
        round: the round in progress, or else the last one that is complete.
        done: rounds that are complete.
        asked: the clients of the round in progress where they are named, ``size`` how many they are, and ``since`` when
            they were asked, in seconds since 1970; ``None`` where no round is in progress or its cohort is secret.
        answered: those of them that have answered, and ``answers`` how many they are.
        history: the latest rounds.
        spent: the epsilon that each client has spent so far.
        epsilon: the largest epsilon that any client has spent so far.
        problems, notices: the latest.
        alive: whether the server of the run holds its file; ``None`` where nobody looked.
        written: when the file was written last, in seconds since 1970.
    """

    begun: Begun
    state: State = "running"
    reason: str | None = None
    round: int
    done: int
    asked: tuple[int, ...] | None = None
    size: int | None = None
    since: float | None = None
    answered: frozenset[int] = frozenset()
    answers: int = 0
    history: tuple[Round, ...] = ()
    spent: Mapping[int, float]
    epsilon: float | None = None
    problems: tuple[Problem, ...] = ()
    notices: tuple[str, ...] = ()
    alive: bool | None = None
    written: float | None = None

    @classmethod
    def begun_with(cls, line: Begun, *, before: "RunStatus | None") -> "RunStatus":
        """Return where a run stands that begins, or that goes on from a start before."""
        status = cls(begun=line, round=line.done, done=line.done, spent=line.spent, epsilon=line.reached)
        if before is None:
            return status
        return replace(
            status,
            history=tuple(entry for entry in before.history if entry.round <= line.done),
            spent=line.spent or before.spent,
            epsilon=before.epsilon if line.reached is None else line.reached,
            problems=before.problems,
            notices=before.notices[-KEPT:],
        )

    def after(self, line: Line) -> "RunStatus":
        """Return where the run stands after a further line."""
        match line:
            case Asked():
                return replace(
                    self,
                    round=line.round,
                    asked=line.cohort,
                    size=line.clients,
                    since=None if self.begun.withheld else line.time,
                    answered=frozenset(),
                    answers=0,
                )
            case Answered():
                answered = self.answered if line.client is None else self.answered | {line.client}
                return replace(self, answered=answered, answers=line.answered)
            case Done():
                return self._after_round(line)
            case Note():
                return replace(self, notices=(*self.notices, line.text)[-KEPT:])
            case Ended():
                return replace(
                    self._between_rounds(),
                    state=line.status,
                    reason=line.reason,
                    done=line.round,
                    spent=line.spent or self.spent,
                    epsilon=self.epsilon if line.epsilon is None else line.epsilon,
                )
            case Begun():
                return RunStatus.begun_with(line, before=self)

    def _after_round(self, line: Done) -> "RunStatus":
        entry = Round(
            round=line.round,
            clients=line.clients,
            completed=line.completed,
            seconds=line.seconds,
            value=line.value,
            epsilon=line.epsilon,
        )
        problems = [
            Problem(time=line.time, round=line.round, client=loss.client, reason=loss.reason) for loss in line.losses
        ]
        return replace(
            self._between_rounds(),
            round=line.round,
            done=line.round,
            history=(*self.history, entry)[-KEPT:],
            spent=line.spent or self.spent,
            epsilon=self.epsilon if line.epsilon is None else line.epsilon,
            problems=(*self.problems, *problems)[-KEPT:],
        )

    def _between_rounds(self) -> "RunStatus":
        return replace(self, asked=None, size=None, since=None, answered=frozenset(), answers=0)

    def seen(self, *, alive: bool, written: float) -> "RunStatus":
        """Return the same with whether its server is there, and when it wrote last."""
        state = "gone" if self.state == "running" and not alive else self.state
        return replace(self, alive=alive, written=written, state=state)

    def called(self, client: int) -> str:
        """Return the name of a client, printable, or what it is called where it has none."""
        return printable(self.begun.names.get(client, f"client {client}"))

    @property
    def value(self) -> float | None:
        """The latest measurement of the run's metric."""
        return next((entry.value for entry in reversed(self.history) if entry.value is not None), None)

    @property
    def waiting(self) -> tuple[int, ...]:
        """The clients of the round in progress that have not answered."""
        return tuple(client for client in self.asked or () if client not in self.answered)

    @property
    def _pace(self) -> float | None:
        """How many seconds a round takes on average."""
        seconds = [entry.seconds for entry in self.history if entry.seconds is not None]
        return fmean(seconds) if seconds else None

    def late(self, now: float) -> tuple[int, ...]:
        """Return the clients that keep a round waiting for longer than rounds take.

        Longer is one and a half times the average of the rounds before; in a first round, half of its deadline.
        """
        if self.since is None or self.state != "running":
            return ()
        pace = self._pace
        patience = _FIRST_LATE * self.begun.deadline if pace is None else _LATE * pace
        return self.waiting if now - self.since > patience else ()

    def left(self, now: float) -> float | None:
        """Return for how many seconds the run goes on, if its rounds take as long as those before."""
        pace = self._pace
        if pace is None or self.state != "running":
            return None
        passed = 0.0 if self.since is None else min(max(0.0, now - self.since), pace)
        return pace * (self.begun.rounds - self.done) - passed


def as_json(status: RunStatus, *, now: float) -> dict[str, Any]:
    """Return where a run stands as a JSON object, for programs and for the page. What others wrote is printable."""
    begun = status.begun
    clients = sorted({*begun.names, *begun.budgets, *status.spent, *(status.asked or ())})
    late, waiting = set(status.late(now)), set(status.waiting)
    return {
        "name": printable(begun.name),
        "state": status.state,
        "reason": None if status.reason is None else printable(status.reason, kept="\n"),
        "mode": printable(begun.mode),
        "round": status.round,
        "done": status.done,
        "rounds": begun.rounds,
        "clients": begun.clients,
        "cohort": status.size,
        "answers": None if begun.withheld else status.answers,
        "waiting": [status.called(client) for client in status.waiting],
        "late": [status.called(client) for client in status.late(now)],
        "seconds": None if status.since is None else max(0.0, now - status.since),
        "left": status.left(now),
        "metric": None if begun.metric is None else printable(begun.metric),
        "direction": begun.direction,
        "value": status.value,
        "baseline": begun.baseline,
        "epsilon": status.epsilon,
        "budget": begun.epsilon,
        "delta": begun.delta,
        "noise": begun.noise,
        "withheld": begun.withheld,
        "written": status.written,
        "sites": [
            {
                "client": client,
                "name": status.called(client),
                "software": printable(begun.software.get(client, "")) or None,
                "epsilon": status.spent.get(client),
                "budget": begun.budgets.get(client),
                "answered": None if status.asked is None or client not in status.asked else client in status.answered,
                "waiting": client in waiting,
                "late": client in late,
            }
            for client in clients
        ],
        "history": [
            {"round": entry.round, "value": entry.value, "epsilon": entry.epsilon, "seconds": entry.seconds}
            for entry in status.history
        ],
        "problems": [
            {
                "time": problem.time,
                "round": problem.round,
                "site": status.called(problem.client),
                "reason": printable(problem.reason),
            }
            for problem in status.problems[::-1]
        ],
        "notices": [printable(text, kept="\n") for text in status.notices[::-1]],
    }
