"""What a person sees while a run goes on."""

import sys
from contextlib import AbstractContextManager
from decimal import ROUND_CEILING, Decimal
from typing import Literal, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedtrain.report import Report, RoundEntry

# The closing table shows at most so many rounds; metrics.jsonl has them all.
_ROWS = 12


class Screen(AbstractContextManager["Screen"], Protocol):
    """Shows a run. Rounds are shown while it is entered as a context."""

    def say(self, text: str) -> None:
        """Show a text."""

    def round_started(self, number: int, cohort: int) -> None:
        """Show that a round was sent to so many clients."""

    def client_done(self) -> None:
        """Show that one more client of the round has answered."""

    def round_done(self, entry: RoundEntry, accuracy: float | None, epsilon: float | None) -> None:
        """Show a completed round, the latest central accuracy, and the largest epsilon."""


class SilentScreen(AbstractContextManager["SilentScreen"]):
    """Shows nothing."""

    def __exit__(self, *_: object) -> None:
        """Have nothing to clean up."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def round_started(self, number: int, cohort: int) -> None:
        """Show nothing."""

    def client_done(self) -> None:
        """Show nothing."""

    def round_done(self, entry: RoundEntry, accuracy: float | None, epsilon: float | None) -> None:
        """Show nothing."""


class PlainScreen(SilentScreen):
    """One line for each round, and for each client that it dropped, for files and pipes."""

    def __init__(self, *, rounds: int) -> None:
        self._rounds = rounds
        self._durations: list[float] = []

    def say(self, text: str) -> None:
        """Print the text."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def round_done(self, entry: RoundEntry, accuracy: float | None, epsilon: float | None) -> None:
        """Print the round, and how long the rest takes at the pace so far."""
        self._durations.append(entry.seconds)
        left = sum(self._durations) / len(self._durations) * (self._rounds - entry.round)
        self.say(f"round {entry.round}/{self._rounds}  {_figures(entry, accuracy, epsilon)}  time left {left:.0f} s")
        for line in _drops(entry):
            self.say(line)


class LiveScreen(SilentScreen):
    """A progress display, for terminals."""

    def __init__(self, *, rounds: int, done: int) -> None:
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
        self._task = self._progress.add_task("", total=rounds, completed=done, clients="", figures="")
        self._answered = 0
        self._cohort = 0

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing and leave the last state on the screen."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print the text above the display."""
        self._console.print(text, markup=False, highlight=False)

    def round_started(self, number: int, cohort: int) -> None:
        """Show an empty count of clients."""
        self._answered, self._cohort = 0, cohort
        self._progress.update(self._task, clients=f"clients 0/{cohort}", completed=number - 1)

    def client_done(self) -> None:
        """Count one more client."""
        self._answered += 1
        self._progress.update(self._task, clients=f"clients {self._answered}/{self._cohort}")

    def round_done(self, entry: RoundEntry, accuracy: float | None, epsilon: float | None) -> None:
        """Advance the bar."""
        self._progress.update(self._task, completed=entry.round, figures=_figures(entry, accuracy, epsilon))
        for line in _drops(entry):
            self.say(line)


def make_screen(kind: Literal["auto", "plain", "none"], *, rounds: int, done: int) -> Screen:
    """Return the screen of a kind; ``auto`` draws on a terminal and prints lines elsewhere."""
    if kind == "none":
        return SilentScreen()
    if kind == "auto" and sys.stdout.isatty():
        return LiveScreen(rounds=rounds, done=done)
    return PlainScreen(rounds=rounds)


def closing_table(report: Report) -> str:
    """Return a short table of rounds, central accuracy and epsilon, as text."""
    table = Table("round", "central accuracy", "epsilon", box=None, padding=(0, 2, 0, 0))
    spent = {point.round: point.max for point in report.privacy.curve}
    history = report.evaluation.history
    step = -(-len(history) // _ROWS)
    for entry in history[::-1][:: max(step, 1)][::-1]:
        accuracy = "" if entry.accuracy is None else f"{entry.accuracy:.4f}"
        private = report.privacy.mode != "none"
        epsilon = _rounded_up(spent.get(entry.round, 0.0)) if private else "no guarantee"
        table.add_row(str(entry.round), accuracy, epsilon)
    console = Console(width=100, file=None, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _figures(entry: RoundEntry, accuracy: float | None, epsilon: float | None) -> str:
    parts = [f"clients {len(entry.completed or ())}/{len(entry.cohort or ())}"]
    if accuracy is not None:
        parts.append(f"accuracy {accuracy:.4f}")
    if epsilon is not None:
        parts.append(f"epsilon {_rounded_up(epsilon)}")
    return "  ".join(parts)


def _drops(entry: RoundEntry) -> list[str]:
    # The last line of a traceback is the cause.
    return [
        f"round {entry.round}: dropped client {dropped.client}: {dropped.reason.strip().splitlines()[-1]}"
        for dropped in entry.dropped or ()
    ]


def _rounded_up(epsilon: float) -> str:
    # An epsilon is never shown as less than it is.
    return f"{Decimal(repr(epsilon)).quantize(Decimal('0.001'), ROUND_CEILING):f}"
