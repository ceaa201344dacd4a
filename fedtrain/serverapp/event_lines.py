"""The run's events as the lines of ``events.jsonl``, from which `fedtrain watch` and its like show a run.

A line has nothing that the report of the run would withhold. With secret cohorts it does not say who was asked, how
many answered, or when; and what is read from training records, which is for the screen alone, is in no line. No line
says when a client answered: how long it computes can depend on how many records it has. Where a client passes an
exception on as it is, in a simulation without privacy, its text may quote a record, also by the name of a class that
somebody wrote: of such the line has the kind, if it is one of Python's or of this library's. So it has of an error of
the server that may quote a test record, and of one of the caller's function.
"""

import builtins
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from time import time

from fedtrain import errors
from fedtrain.errors import StorageError
from fedtrain.flower.sessions import ServerSession
from fedtrain.privacy.mechanisms import guarantees_nothing
from fedtrain.report.wording import cause
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.events import ClientDone, Event, Notice, RoundDone, RoundStarted, RunEnded
from fedtrain.serverapp.preparation import Preparation
from fedtrain.serverapp.reporting import spent_epsilons
from fedtrain.status.lines import (
    NAMED,
    PROBLEMS,
    Answered,
    Asked,
    Begun,
    Done,
    Ended,
    Line,
    Loss,
    Note,
    cut,
    finite,
    named,
    numbers,
)
from fedtrain.status.log import EventLog

_log = logging.getLogger(__name__)

_DAY = 86_400.0  # seconds
_STEP = 0.01  # of a cohort that is too large to be named, between two lines
# Reasons that the server itself gives, and the beginnings of others of its own.
_OWN = ("no answer within ", "no masked update within ", "the message could not be sent")
_UNUSABLE = frozenset({"unusable update", "unusable masked update"})


def beginning(
    preparation: Preparation,
    trail: AuditTrail | None,
    *,
    names: Mapping[int, str],
    session: ServerSession | None,
    done: int,
    now: float,
) -> Begun:
    """Return the line with which a run begins, or goes on.

    Args:
        preparation: what was made before.
        trail: the record of a private run.
        names: of the clients that have one.
        session: what clients said of themselves when it was opened; that of those with names is told.
        done: rounds that are complete.
        now: the time, in seconds since 1970.
    """
    experiment, plan = preparation.experiment, preparation.plan
    metric = next(iter(preparation.metrics), None)
    withheld = trail is not None and trail.withheld
    stated = {} if trail is None else {client: trail.copies.stated(client) for client in trail.roster.clients}
    spent = {} if trail is None else spent_epsilons(trail, up_to=done)
    software = {} if session is None else session.software
    directions = {} if session is None else session.directions
    return Begun(
        time=now - now % _DAY if withheld else now,
        name=cut(experiment.name),
        mode=experiment.privacy.mode,
        rounds=experiment.federation.rounds,
        done=done,
        clients=experiment.federation.clients,
        deadline=experiment.federation.deadline,
        names=named({client: cut(name) for client, name in names.items()}),
        software=named({client: cut(text) for client, text in software.items() if client in names}),
        directions=named({client: version for client, version in directions.items() if client in names}),
        epsilon=None if plan is None else plan.spec.epsilon,
        delta=None if plan is None else plan.spec.delta,
        noise=None if plan is None else experiment.privacy.noise,
        budgets=numbers({client: found.epsilon for client, found in stated.items() if found is not None}),
        spent={} if withheld else numbers(spent),
        reached=finite(max(spent.values(), default=None)),
        metric=None if metric is None else metric.name,
        direction="higher" if metric is None else metric.direction,
        baseline=None if metric is None else finite((preparation.baseline or {}).get(metric.name)),
        withheld=withheld,
    )


class EventLines(AbstractContextManager["EventLines"]):
    """Writes events to the file of a run. A line that cannot be written is left out, and the run goes on.

    Notices from before the run began are written with its beginning, so that a start that fails leaves no file.
    """

    def __init__(self, path: Path, *, quotes: bool, clock: Callable[[], float] = time) -> None:
        """Prepare.

        Args:
            path: the file.
            quotes: whether the reasons of clients are exceptions as they are.
            clock: tells the time, in seconds since 1970.
        """
        self._log = EventLog(path)
        self._quotes, self._clock = quotes, clock
        self._begun: Begun | None = None
        self._early: list[str] = []
        self._cohort: tuple[int, ...] = ()
        self._since, self._written = 0.0, 0
        self._open = self._told = False

    def begin(self, line: Begun) -> None:
        """Open the file with the line of the run's beginning."""
        self._begun = line
        self._open = self._guarded(lambda: self._log.begin(line))
        for text in self._early:
            self._append(Note(time=self._time, text=text))

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self._log.close()

    def show(self, event: Event) -> None:
        """Write what there is to say of an event."""
        if self._begun is None:
            if isinstance(event, Notice) and not event.private:
                self._early.append(cut(event.text))
            return
        line = self._line(event)
        if line is not None:
            self._append(line)

    @property
    def _time(self) -> float:
        assert self._begun is not None
        return self._begun.time if self._begun.withheld else self._clock()

    def _append(self, line: Line) -> None:
        if self._open:
            self._guarded(lambda: self._log.append(line))

    def _guarded(self, write: Callable[[], None]) -> bool:
        """Write, and say whether that went well. The first time that it does not, a person is told."""
        try:
            write()
        except StorageError as error:
            if not self._told:
                _log.warning("the run goes on, and who watches it misses events: %s", error)
            self._told = True
            return False
        return True

    def _line(self, event: Event) -> Line | None:
        assert self._begun is not None
        shown = not self._begun.withheld
        line: Line | None = None
        match event:
            case RoundStarted():
                line = self._asked(event, shown=shown)
            case ClientDone() if shown and self._is_due(event):
                self._written = event.answered
                client = event.client if self._cohort else None
                line = Answered(time=self._since, round=event.round, answered=event.answered, client=client)
            case RoundDone():
                line = self._done(event, shown=shown)
            case Notice() if not event.private:
                line = Note(time=self._time, text=cut(event.text))
            case RunEnded():
                line = self._ended(event, shown=shown)
        return line

    def _ended(self, event: RunEnded, *, shown: bool) -> Ended:
        privacy = None if event.report is None else event.report.privacy
        spent = {client.client: client.epsilon for client in privacy.clients} if shown and privacy else {}
        return Ended(
            time=self._time,
            status=event.status,
            reason=self._ending(event),
            round=event.round,
            epsilon=None if privacy is None or privacy.epsilon is None else finite(privacy.epsilon),
            spent=numbers(spent),
        )

    def _asked(self, event: RoundStarted, *, shown: bool) -> Asked:
        self._cohort, self._written = event.cohort if len(event.cohort) <= NAMED else (), 0
        self._since = self._time
        cohort = self._cohort if shown and self._cohort else None
        return Asked(time=self._since, round=event.round, clients=event.clients if shown else None, cohort=cohort)

    def _is_due(self, event: ClientDone) -> bool:
        """Say whether an answer is worth a line: each of a cohort that is named, and a hundred of others."""
        if self._cohort or event.answered == event.clients:
            return True
        return event.answered - self._written >= _STEP * event.clients

    def _done(self, event: RoundDone, *, shown: bool) -> Done:
        entry, value = event.entry, None
        if event.evaluation is not None and event.metric is not None:
            value = event.evaluation.value(event.metric.name)
        common = Done(
            time=self._time,
            round=event.round,
            value=finite(value),
            epsilon=finite(event.epsilon),
        )
        if not shown:
            return common
        dropped = entry.dropped or ()
        return common.model_copy(
            update={
                "clients": len(entry.cohort or ()),
                "completed": len(entry.completed or ()),
                "seconds": entry.seconds,
                "spent": numbers(event.spent),
                "losses": tuple(
                    Loss(client=loss.client, reason=self._reason(loss.reason)) for loss in dropped[:PROBLEMS]
                ),
                "lost": len(dropped),
            }
        )

    def _ending(self, event: RunEnded) -> str | None:
        if event.reason is None:
            return None
        if event.kind:
            return f"{event.kind}; the report of the run says more"
        # In the lines after the first are the clients' own words.
        return cut(event.reason.partition("\n")[0] if self._quotes else event.reason)

    def _reason(self, reason: str) -> str:
        if not self._quotes or reason.startswith(_OWN):
            return cut(cause(reason))
        # The last line of a traceback may be in the middle of what the exception says.
        kind = cause(reason).partition(":")[0].rpartition(".")[2]
        known = kind in _UNUSABLE or _is_known(kind)
        return f"{kind if known else 'an exception'}; the report of the run says more"


def _is_known(kind: str) -> bool:
    """Say whether a name is that of an exception of Python's or of this library's."""
    found = getattr(builtins, kind, None) or getattr(errors, kind, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def quotes_exceptions(mode: str, *, deployed: bool) -> bool:
    """Say whether clients pass exceptions on as they are, whose texts may quote a record."""
    return guarantees_nothing(mode) and not deployed
