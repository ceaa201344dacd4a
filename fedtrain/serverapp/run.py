"""A whole run: prepare, train round after round, save after each, report whatever happens."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import time

from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException

from fedtrain.config import Experiment
from fedtrain.errors import (
    AggregationError,
    BudgetError,
    ClientError,
    FedtrainError,
    LedgerError,
    StorageError,
    TooFewResultsError,
    TransportError,
)
from fedtrain.files import append_line
from fedtrain.flower.endings import allow_last_word
from fedtrain.flower.grids.base import let_rest
from fedtrain.flower.grids.prompt import PromptGrid
from fedtrain.flower.summing import Summing
from fedtrain.ledger import clients_with_ledgers
from fedtrain.machines import ServerFolder
from fedtrain.progress import shown
from fedtrain.report import Evaluation, ModelFile, Report, best_of
from fedtrain.report.evaluation import kept, not_finite, slim
from fedtrain.report.inputs import Inputs, inputs_of
from fedtrain.report.numbers import short
from fedtrain.serverapp import result_warnings
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.channel import Channel, Transport, checked_summing
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.enrollment import (
    Enrollment,
    Members,
    clients_of,
    enroll_members,
    enroll_simulated,
    one_folder,
    read_members,
)
from fedtrain.serverapp.event_lines import EventLines, beginning, quotes_exceptions
from fedtrain.serverapp.events import (
    ClientDone,
    Events,
    Listener,
    Notice,
    RoundDone,
    RoundStarted,
    RunEnded,
    RunStarted,
)
from fedtrain.serverapp.identity import RunIdentity
from fedtrain.serverapp.intervals import Results, results_of
from fedtrain.serverapp.preparation import Preparation, introduction, prepare
from fedtrain.serverapp.reporting import (
    Status,
    build_report,
    largest_epsilon,
    matrices_of,
    require_pictures,
    spent_epsilons,
)
from fedtrain.serverapp.rounds import Rounds, initial_state
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.serverapp.sample import sample_of
from fedtrain.serverapp.screen import Screen, make_screen
from fedtrain.serverapp.trackers import check_trackers, open_trackers
from fedtrain.tasks import NO_OBJECTS, CallerObjects
from fedtrain.tasks.weights import second_names

_log = logging.getLogger(__name__)

# Their texts name clients, numbers and files, and nothing of the data.
_HARMLESS = frozenset(
    {
        AggregationError,
        BudgetError,
        ClientError,
        LedgerError,
        StorageError,
        TooFewResultsError,
        TransportError,
    }
)


def run_experiment(
    grid: Grid, experiment: Experiment, *, objects: CallerObjects = NO_OBJECTS, on_event: Listener | None = None
) -> Path:
    """Run an experiment over a grid and leave its run folder.

    Args:
        grid: the way to the clients.
        experiment: what is trained.
        objects: what is trained in the place of what the experiment names.
        on_event: called with each event. An error that it raises ends the run after the round in progress, which is
            saved, and is raised here then.

    Returns:
        The run folder.

    Raises:
        UsageError: the input cannot be used; nothing was trained.
        RunError: the run failed; its folder holds what was reached, and it can be resumed.
        KeyboardInterrupt: likewise, when a person stopped it.
    """
    check_trackers(experiment)
    server = ServerFolder.of_environment()
    with nullcontext() if experiment.output.screen == "none" else shown():
        preparation = prepare(experiment, deployed=server is not None, objects=objects)
        require_pictures()
    remote = _is_remote(grid)
    transport = Transport.of(experiment, remote=server is not None or remote)
    summing = checked_summing(experiment, preparation.model, preparation.plan) if transport.secagg else None
    if remote:
        allow_last_word()
        grid = PromptGrid(grid)
    federation = experiment.federation
    if server is None:
        parties: Mapping[int, int] | Members = clients_of(grid, clients=federation.clients, timeout=federation.deadline)
        enroll: Callable[..., Enrollment] = enroll_simulated
        names: Mapping[int, str] = dict(enumerate(preparation.shown_owners))
    else:
        parties = read_members(server, clients=federation.clients)
        enroll = enroll_members
        names = parties.membership.names
    folder = RunFolder.open(experiment)
    # Without any of these, clients have no files. A SuperLink's nodes have each a machine, and their files there.
    files = preparation.plan is not None or transport.sealed or transport.secagg or federation.sites is not None
    common = one_folder(grid, experiment) if files and server is None and not remote else nullcontext(grid)
    with folder.held(experiment), common as reached:
        _run(
            preparation,
            transport,
            summing,
            folder,
            partial(enroll, reached, parties),
            names=names,
            deployed=server is not None,
            on_event=on_event,
        )
    return folder.path


def _run(
    preparation: Preparation,
    transport: Transport,
    summing: Summing | None,
    folder: RunFolder,
    enroll: Callable[..., Enrollment],
    *,
    names: Mapping[int, str],
    deployed: bool,
    on_event: Listener | None,
) -> None:
    """Enroll the clients, and run."""
    experiment = preparation.experiment
    with folder.starting():
        unchecked = folder.check_identity(RunIdentity.of(preparation, folder.data_key))
        start = folder.load_checkpoint() or initial_state(preparation)
        # A checkpoint of an earlier version has all matrices.
        start = replace(start, evaluations=kept(start.evaluations, preparation.metrics))
        done = start.round_number
        screen = make_screen(experiment.output.screen)
        quotes = quotes_exceptions(experiment.privacy.mode, deployed=deployed)
        lines = EventLines(folder.events, quotes=quotes)
        events = Events(screen, lines, listener=on_event)
        events.emit(
            RunStarted(
                path=folder.path,
                rounds=experiment.federation.rounds,
                done=done,
                introduction=introduction(preparation),
                owners=preparation.shown_owners,
            )
        )
        for warning in preparation.warnings:
            events.emit(Notice(text=f"warning: {warning}"))
        for warning in preparation.private_warnings:
            events.emit(Notice(text=f"warning: {warning}", private=True))
        if unchecked:
            events.emit(Notice(text=f"warning: {unchecked}"))
        if preparation.slower:
            events.emit(Notice(text=preparation.slower))
        enrollment = enroll(preparation, transport, summing, folder, done=done)
    if enrollment.trail is not None:
        for client, reason in enrollment.trail.refused.items():
            # In the client's own words.
            events.emit(Notice(text=f"client {client} does not take part: {short(reason, 500)}"))
    run = RunInProgress(preparation, folder, screen, events, start, enrollment.trail, run=enrollment.run)
    del start  # its model is as large as those to come
    with lines:
        session = enrollment.channel.session
        begun = beginning(preparation, enrollment.trail, names=names, session=session, done=done, now=time())
        lines.begin(begun)
        with open_trackers(
            folder.path, experiment, after=done, tell=lambda text: events.emit(Notice(text=text))
        ) as trackers:
            events.follow(*trackers)
            run.execute(enrollment.channel)


def _is_remote(grid: Grid) -> bool:
    """Say whether a grid reaches a SuperLink over HTTP.

    Where there is such a grid, its module is imported: with a web server and a database, which takes a second.
    """
    module = sys.modules.get("flwr.superlink.grid.http_grid")
    return module is not None and isinstance(grid, module.HttpGrid)


class RunInProgress:
    """A run in progress: where it stands, and where that is kept."""

    def __init__(
        self,
        preparation: Preparation,
        folder: RunFolder,
        screen: Screen,
        events: Events,
        start: RunState,
        trail: AuditTrail | None,
        *,
        run: str,
    ) -> None:
        """Begin at a state, which is that of the newest checkpoint in the folder, or the initial one."""
        self._preparation = preparation
        self._experiment = preparation.experiment
        self._folder = folder
        self._screen = screen
        self._events = events
        self._state = start
        self._trail = trail
        self._run = run
        self._rounds: Rounds | None = None

    def execute(self, channel: Channel) -> None:
        """Run the rounds that are left, and leave a report however they end."""
        try:
            self._train(channel)
        except (KeyboardInterrupt, SystemExit, RunNotRunningException):  # the last two where the SuperLink stops a run
            self._end("interrupted", "stopped by the user")
            raise
        except Exception as error:
            name = "" if isinstance(error, FedtrainError) else f"{type(error).__name__}: "
            if error is self._events.error:
                self._refresh(channel)
                self._end("interrupted", f"stopped by on_event: {name}{error}", kind=type(error).__name__)
                raise
            if isinstance(error, BudgetError | AggregationError):
                self._refresh(channel)
            self._end("failed", f"{name}{error}", kind="" if type(error) in _HARMLESS else type(error).__name__)
            raise
        self._refresh(channel)
        let_rest(channel.grid)  # what is left to compute needs the memory
        report = self._report("completed", None)
        if left := channel.end(timeout=self._experiment.federation.deadline):
            clients = ", ".join(map(str, left))
            self._events.emit(Notice(text=f"clients {clients} did not say that they deleted their keys of the session"))
        self._emit_end("completed", None, report)
        self._events.check()

    def _refresh(self, channel: Channel) -> None:
        if (trail := self._trail) is not None:
            spent = clients_with_ledgers(self._experiment) if trail.keys.when_drawn else frozenset()
            trail.refresh(channel.grid, channel.clients, timeout=self._experiment.federation.deadline, spent=spent)

    def _train(self, channel: Channel) -> None:
        rounds = Rounds(channel, self._preparation, self._trail, done=self._state.round_number)
        self._rounds = rounds
        if not self._state.evaluations:
            self._state = rounds.evaluated(self._state)
            self._warn_if_not_finite(self._state.evaluations)
        # A kill may have come between a checkpoint and what follows it.
        self._folder.save_metrics(
            self._line(evaluation, self._epsilon(evaluation.round)) for evaluation in self._state.evaluations
        )
        self._save_if_best()
        metric, baseline = next(iter(self._preparation.metrics), None), self._preparation.baseline or {}
        with self._screen:
            while self._state.round_number < self._experiment.federation.rounds:
                self._events.check()
                self._save(self._next(rounds))
                evaluation, entry = self._state.evaluations[-1], self._state.round_log[-1]
                spent = {} if self._trail is None else spent_epsilons(self._trail, up_to=entry.round)
                epsilon = None if self._trail is None else max(spent.values(), default=0.0)
                if evaluation.round == entry.round:
                    append_line(self._folder.metrics, self._line(evaluation, epsilon))
                    self._save_if_best()
                self._events.emit(
                    RoundDone(
                        round=entry.round,
                        entry=entry,
                        evaluation=evaluation if evaluation.round == entry.round else None,
                        epsilon=epsilon,
                        metric=metric,
                        baseline=None if metric is None else baseline.get(metric.name),
                        spent=spent,
                    )
                )
                if evaluation.round == entry.round:
                    self._warn_if_not_finite(self._state.evaluations)

    def _warn_if_not_finite(self, evaluations: Sequence[Evaluation]) -> None:
        """Tell at once of an evaluation whose loss is not finite, where the one before was."""
        metrics = self._preparation.metrics
        latest, before = evaluations[-1], evaluations[-2:-1]
        if not_finite(latest, metrics) and not any(not_finite(evaluation, metrics) for evaluation in before):
            self._events.emit(Notice(text=f"warning: {result_warnings.of_loss([latest], metrics)}"))

    def _next(self, rounds: Rounds) -> RunState:
        """Run the next round, and tell of each client that answers. A round that is lost is asked again, if so many."""
        number, answered, asked = self._state.round_number + 1, 0, 0

        def started(number: int, cohort: tuple[int, ...]) -> None:
            nonlocal asked
            asked = len(cohort)
            self._events.emit(RoundStarted(round=number, clients=asked, cohort=cohort))

        def replied(client: int | None) -> None:
            nonlocal answered
            answered += 1
            self._events.emit(ClientDone(round=number, answered=answered, clients=asked, client=client))

        retries = self._experiment.federation.retries
        for attempt in range(retries + 1):
            answered = 0
            try:
                return rounds.next(self._state, on_start=started, on_reply=replied)
            except (TooFewResultsError, AggregationError) as error:
                if attempt == retries or not rounds.may_ask_again(error):
                    raise
                self._events.emit(Notice(text=str(error), private=True))
                self._events.emit(Notice(text=f"round {number} is asked again ({attempt + 1} of {retries})"))
        raise AssertionError("the last attempt returned or raised")

    def _save(self, state: RunState) -> None:
        before, self._state = self._state, state
        try:
            self._state = self._folder.save_checkpoint(state)
        except StorageError:
            # A round without a checkpoint is going to be repeated: nothing of it may be published.
            self._state = before
            raise

    @staticmethod
    def _line(evaluation: Evaluation, epsilon: float | None) -> dict[str, object]:
        line = slim(evaluation).model_dump(mode="json", exclude_none=True)
        return line if epsilon is None else {**line, "epsilon": epsilon}

    def _epsilon(self, up_to: int) -> float | None:
        return None if self._trail is None else largest_epsilon(self._trail, up_to=up_to)

    def _save_if_best(self) -> None:
        best = best_of(self._state.evaluations, self._preparation.metrics)
        if best is not None and best.round == self._state.round_number:
            self._save_model("best")

    def _save_model(self, name: str) -> ModelFile:
        """Write the model as it is evaluated, and beside it the sums that least squares fitted it from."""
        preparation, trained = self._preparation, self._state.model
        if preparation.fitted is not None:
            self._folder.save_model("sums", trained)
        return self._folder.save_model(name, preparation.released(trained), second_names(preparation.released_model))

    def _report(self, status: Status, reason: str | None) -> Report:
        from fedtrain.report.html import render_html  # noqa: PLC0415 - the library of the pictures waits for the end

        if self._trail is not None and self._trail.keys.when_drawn:
            self._trail.roster.write(self._folder.roster)
        matrices = matrices_of(self._preparation, self._state)
        results, sample = Results(), None
        if status == "completed":
            known = {} if self._rounds is None else self._rounds.outputs
            results = results_of(self._preparation, self._state, lambda: self._folder.load_model("best"), known)
            sample = sample_of(self._preparation, self._state)
        report = build_report(
            self._preparation,
            self._state,
            self._trail,
            run=self._run,
            status=status,
            reason=reason,
            final=self._save_model("final"),
            best=self._folder.model_file("best"),
            matrices=self._folder.save_matrices(matrices),
            intervals=results.intervals,
            groups=results.groups,
            sample=sample,
        )
        self._folder.save_inputs(_inputs(self._preparation))
        self._folder.save_report(report, render_html(report, matrices))
        return report

    def _end(self, status: Status, reason: str, *, kind: str = "") -> None:
        """Leave the report of a run that did not complete; for ``kind`` see `RunEnded`."""
        report = None
        # A disk that is full for the checkpoint is full for the report: the first error is the one to tell.
        try:
            report = self._report(status, reason)
        except StorageError as error:
            _log.warning("the report could not be written: %s", error)
        self._emit_end(status, reason, report, kind=kind)

    def _emit_end(self, status: Status, reason: str | None, report: Report | None, *, kind: str = "") -> None:
        self._events.emit(
            RunEnded(
                path=self._folder.path,
                status=status,
                reason=reason,
                round=self._state.round_number,
                report=report,
                kind=kind,
            )
        )


def _inputs(preparation: Preparation) -> Inputs:
    digest = None if preparation.encoder is None else preparation.encoder.digest
    return inputs_of(preparation.experiment, preparation.store.info, encoder_digest=digest)
