"""What a person sees while a run goes on: one follower of the run's events."""

import importlib
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedtrain.privacy.mechanisms import private as private_mode
from fedtrain.report import Report
from fedtrain.report.numbers import achieved, between
from fedtrain.report.wording import called, cause, summary
from fedtrain.serverapp.events import ClientDone, Event, Notice, RoundDone, RoundStarted, RunEnded, RunStarted

# The closing table, and the display in a notebook, show at most so many rounds; metrics.jsonl has them all.
_ROWS = 12
_REASONS = 5  # why clients were dropped, in one round
_REDRAW = 0.25  # seconds between two drawings in a notebook


class Screen(AbstractContextManager["Screen"], Protocol):
    """Shows a run. It cleans up what it draws when it is left as a context."""

    def show(self, event: Event) -> None:
        """Show an event."""


class SilentScreen(AbstractContextManager["SilentScreen"]):
    """Shows nothing."""

    def __exit__(self, *_: object) -> None:
        """Have nothing to clean up."""

    def show(self, event: Event) -> None:
        """Show nothing."""


class _Lines:
    """What is said of a run, as lines of text; one for each round, and for each reason why it dropped clients."""

    def __init__(self) -> None:
        self._rounds = 0
        self._owners: tuple[str, ...] = ()
        self._durations: list[float] = []
        self._said: set[str] = set()

    def of(self, event: Event) -> list[str]:
        match event:
            case RunStarted():
                self._rounds, self._owners = event.rounds, event.owners
                return [event.introduction, *_gone_on(event)]
            case Notice():
                self._said.add(event.text)
                return [event.text]
            case RoundDone():
                self._durations.append(event.entry.seconds)
                left = sum(self._durations) / len(self._durations) * (self._rounds - event.round)
                line = f"round {event.round}/{self._rounds}  {_figures(event)}  time left {left:.0f} s"
                return [line, *_drops(event, self._owners)]
            case RunEnded():
                return _closing(event, self._said)
        return []


class PlainScreen(SilentScreen):
    """Lines of text, for files and pipes. Where nobody reads a pipe any more, the run goes on in silence."""

    def __init__(self) -> None:
        self._lines = _Lines()

    def show(self, event: Event) -> None:
        """Print what there is to say of an event."""
        stream: TextIO | None = sys.stdout  # none in a process that was started without one
        if stream is None:
            return
        encoding = getattr(stream, "encoding", None)  # a program may have put its own object there, to copy to a file
        try:
            for line in self._lines.of(event):
                stream.write(f"{showable(line, encoding)}\n")
                stream.flush()
        except BrokenPipeError:
            # What is still in the stream's buffer would be an error once more, when the process ends.
            with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123
                os.dup2(nothing.fileno(), stream.fileno())


class NotebookScreen(SilentScreen):
    """One display below a notebook's cell that is drawn again and again, so that a long run does not fill it.

    Args:
        display: ``IPython.display.display``.
    """

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None
        self._lines = _Lines()
        self._before: list[str] = []
        self._latest: deque[str] = deque(maxlen=_ROWS)
        self._after: list[str] = []
        self._drawn = 0.0

    def show(self, event: Event) -> None:
        """Draw the introduction, the latest rounds, and the round in progress."""
        lines = self._lines.of(event)
        match event:
            case RoundStarted():
                self._after = [f"round {event.round}: clients 0/{event.clients}"]
            case ClientDone():
                self._after = [f"round {event.round}: clients {event.answered}/{event.clients}"]
            case RoundDone():
                self._latest.extend(lines)
                self._after = []
            case RunEnded():
                self._after = lines
            case _:
                self._before.extend(lines)
        now = time.monotonic()
        if isinstance(event, RunStarted | Notice | RunEnded) or now - self._drawn >= _REDRAW:
            self._draw([*self._before, *self._latest, *self._after])
            self._drawn = now

    def _draw(self, lines: Iterable[str]) -> None:
        data = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class LiveScreen(SilentScreen):
    """A progress display, for terminals."""

    def __init__(self) -> None:
        self._console = Console()
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[clients]}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._owners: tuple[str, ...] = ()
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing and leave the last state on the screen."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Advance the bar, and print texts above it."""
        match event:
            case RunStarted():
                self._owners = event.owners
                self._say(event.introduction, *_gone_on(event))
                self._task = self._progress.add_task(
                    "", total=event.rounds, completed=event.done, clients="", figures=""
                )
            case RoundStarted():
                self._update(clients=f"clients 0/{event.clients}", completed=event.round - 1)
            case ClientDone():
                self._update(clients=f"clients {event.answered}/{event.clients}")
            case RoundDone():
                self._update(completed=event.round, clients=_clients(event), figures="  ".join(_measured(event)))
                self._say(*_drops(event, self._owners))
            case Notice():
                self._said.add(event.text)
                self._say(event.text)
            case RunEnded():
                self._say(*_closing(event, self._said))

    def _update(self, *, figures: str | None = None, **fields: Any) -> None:
        assert self._task is not None
        if figures is not None:
            fields["figures"] = showable(figures, self._console.encoding)
        self._progress.update(self._task, **fields)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(showable(line, self._console.encoding), markup=False, highlight=False)


def showable(text: str, encoding: str | None) -> str:
    r"""Return a text with the characters escaped that an encoding does not have.

    >>> showable("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "ascii")
    'caf\\xe9'
    """
    known = encoding or "utf-8"
    return text.encode(known, "backslashreplace").decode(known)


def make_screen(kind: Literal["auto", "plain", "none"]) -> Screen:
    """Return the screen of a kind; ``auto`` draws on a terminal or in a notebook, and prints lines elsewhere."""
    if kind == "none":
        return SilentScreen()
    if kind == "auto" and sys.stdout is not None and sys.stdout.isatty():
        return LiveScreen()
    if kind == "auto" and (display := _notebook_display()) is not None:
        return NotebookScreen(display)
    return PlainScreen()


def _notebook_display() -> Any:
    """Return the function that shows something below a notebook's cell; ``None`` where this is no notebook."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    return importlib.import_module("IPython.display").display


def _gone_on(event: RunStarted) -> list[str]:
    if not event.done:
        return []
    if event.done == event.rounds:
        return [f"all {event.rounds} rounds were complete already: only the report is written again"]
    return [f"goes on after round {event.done} of {event.rounds}"]


def _closing(event: RunEnded, said: set[str]) -> list[str]:
    """Return what is said when a run is over, without what was said before."""
    if event.status == "interrupted":
        how = (
            f"stopped after round {event.round}; completed rounds are saved. To go on, run the same command with --out "
            f"{event.path} --resume, or in Python simulate(..., out={str(event.path)!r}, resume=True)"
        )
        return [how]
    if event.status == "failed" or event.report is None:  # the error says it
        return []
    seeded = event.report.privacy.noise == "seeded"
    warnings = [f"warning: {warning}" for warning in event.report.warnings]
    return [
        closing_table(event.report),
        *(["simulation: its epsilon protects nobody, since its noise is seeded"] if seeded else []),
        *_interval(event.report),
        *(warning for warning in warnings if warning not in said),
        f"transport: {summary(event.report.round_log)}",
        f"report: {event.path / 'report.html'}",
    ]


def _interval(report: Report) -> list[str]:
    """Return the interval of the metric that chooses the best model, after the last round."""
    intervals, metric = report.evaluation.intervals, next(iter(report.evaluation.metrics), None)
    found = None if metric is None else report.evaluation.interval(metric.name)
    if intervals is None or metric is None or found is None:
        return []
    ends = between(found.lower, found.upper, "number")
    return [f"{100 * intervals.level:g} % interval of the central {metric.name}, over the test records: {ends}"]


def closing_table(report: Report) -> str:
    """Return a short table of rounds, as text: the metric that chooses the best model, its baseline, and epsilon."""
    evaluations = report.evaluation
    name = evaluations.metrics[0].name if evaluations.metrics else "evaluation"
    baseline = (evaluations.baseline or {}).get(name)
    headings = ["round", f"central {name}", *([] if baseline is None else ["baseline"]), "epsilon"]
    table = Table(*headings, box=None, padding=(0, 2, 0, 0))
    spent = {point.round: point.max for point in report.privacy.curve}
    history = evaluations.history
    step = -(-len(history) // _ROWS)
    for entry in history[::-1][:: max(step, 1)][::-1]:
        value = entry.value(name)
        measured = "" if value is None else achieved(value, evaluations.metrics[0].direction)
        private = private_mode(report.privacy.mode)
        epsilon = _rounded_up(spent.get(entry.round, 0.0)) if private else "no guarantee"
        table.add_row(str(entry.round), measured, *([] if baseline is None else [f"{baseline:.4f}"]), epsilon)
    # In a notebook, rich would show an empty display for what is captured.
    console = Console(width=100, file=None, color_system=None, force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _figures(event: RoundDone) -> str:
    return "  ".join([_clients(event), *_measured(event)])


def _clients(event: RoundDone) -> str:
    return f"clients {len(event.entry.completed or ())}/{len(event.entry.cohort or ())}"


def _measured(event: RoundDone) -> list[str]:
    evaluation, parts = event.evaluation, list[str]()
    if evaluation is not None and event.metric is not None:
        value = evaluation.value(event.metric.name)
        if value is not None:
            baseline = "" if event.baseline is None else f" (baseline {event.baseline:.4f})"
            parts.append(f"{event.metric.name} {achieved(value, event.metric.direction)}{baseline}")
    if event.epsilon is not None:
        parts.append(f"epsilon {_rounded_up(event.epsilon)}")
    return parts


def _drops(event: RoundDone, owners: tuple[str, ...]) -> list[str]:
    """Return a line for each reason why clients were dropped, the most frequent first."""
    by_reason: dict[str, list[int]] = defaultdict(list)
    for dropped in event.entry.dropped or ():
        by_reason[cause(dropped.reason)].append(dropped.client)
    order = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[1]))
    lines = [f"round {event.round}: dropped {called(clients, owners)}: {reason}" for reason, clients in order]
    if len(lines) > _REASONS:
        others = sum(len(clients) for _, clients in order[_REASONS:])
        lines[_REASONS:] = [f"round {event.round}: dropped {others} more clients, for other reasons"]
    return lines


def _rounded_up(epsilon: float) -> str:
    # An epsilon is never shown as less than it is.
    return f"{Decimal(repr(epsilon)).quantize(Decimal('0.001'), ROUND_CEILING):f}"
