"""How a command answers and ends: an object or text for its result, one message and a status for an error.

Every command has ``--json`` and ``--quiet``, and prints by an `Output`. `output` makes it, and turns an error of the
library, an interrupt included, into a message on standard error and, with ``--json``, into the object
``{"exit_status": ..., "error": ...}`` on standard output. Any other error ends the command with its trace, and such an
object too.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import typer
from click import ClickException

from fedtrain.cli.streams import INTERRUPTED, answering
from fedtrain.deployment.processes import Processes, Stopped, stopped_by_signals
from fedtrain.errors import FedtrainError, UsageError
from fedtrain.report.numbers import printable

_FILES: Final = frozenset({"report.html", "events.jsonl", "metrics.jsonl", "record.jsonl"})
_SUFFIXES: Final = frozenset({".json", ".toml", ".safetensors"})
_FOLDERS: Final = frozenset({"checkpoints", "clients", "keys", "ledgers"})


class Output:
    """What a command prints: its result, and what a person is told on the way.

    Attributes:
        as_json: whether standard output has the result as a JSON object alone.
        silent: whether a person is told nothing but the result, as with ``--json`` or ``--quiet``.
    """

    def __init__(self, write: Callable[[Mapping[str, object]], None], *, as_json: bool, quiet: bool) -> None:
        """Print by a function that prints an object as JSON."""
        self._write = write
        self.as_json = as_json
        self.silent = as_json or quiet
        self.answered = False

    def answer(self, result: Mapping[str, object]) -> None:
        """Print the result as JSON."""
        self.answered = True
        self._write(result)

    def say(self, *lines: str) -> None:
        """Tell a person what is done, and what to do next. The result is said without it."""
        if not self.silent:
            _print(lines)

    def starting(self, why: str = "PyTorch and Flower take some seconds") -> None:
        """Tell a person at a terminal that the command has begun, before what takes seconds.

        It is no part of the result, and goes to standard error.

        Args:
            why: what takes them; by default, what is imported.
        """
        if not self.silent and sys.stderr.isatty():
            sys.stderr.write(f"starting: {why}\n")
            sys.stderr.flush()

    def result(self, result: Mapping[str, object], lines: Iterable[str]) -> None:
        """Print the result of a command that was asked for it: as JSON, or as lines."""
        if self.as_json:
            self.answer(result)
        else:
            _print(lines)

    def done(self, result: Mapping[str, object], lines: Iterable[str]) -> None:
        """End a command that did something: its result as JSON, or what a person is told of it."""
        if self.as_json:
            self.answer(result)
        else:
            self.say(*lines)

    def news(self, line: str) -> None:
        """Tell what changed at a service, and when. It may quote what another machine said."""
        if self.as_json:
            self._write({"time": datetime.now().astimezone().isoformat(timespec="seconds"), "message": line})
        elif not self.silent:
            say(line)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def output(as_json: bool, quiet: bool) -> Iterator[Output]:
    """Give what a command prints by, and end the command where there is an error of the library."""
    with answering(as_json) as write:
        out = Output(write, as_json=as_json, quiet=quiet)
        try:
            yield out
        except FedtrainError as error:
            # It may quote a file that somebody else wrote. Messages of our own may have several lines.
            raise typer.Exit(failed(out, printable(str(error), kept="\n"), error.exit_status)) from None
        except KeyboardInterrupt:
            raise typer.Exit(failed(out, "interrupted", INTERRUPTED)) from None
        except (typer.Exit, typer.Abort, ClickException, BrokenPipeError):  # which are told elsewhere, or to nobody
            raise
        except Exception as error:
            # A fault of this program's or of other people's code, whose trace follows. Its text may quote records.
            if out.as_json and not out.answered:
                out.answer({"exit_status": 1, "error": f"unexpected {type(error).__name__}: see standard error"})
            raise


def failed(out: Output, message: str, status: int) -> int:
    """Tell of an error that ends a command, and return the exit status."""
    sys.stderr.write(f"error: {message}\n")
    if out.as_json and not out.answered:
        out.answer({"exit_status": status, "error": message})
    return status


def require_not_of_run(file: Path, run: Path) -> None:
    """Refuse to write over a file of a run: what it claims would be gone.

    Args:
        file: is to be written.
        run: the run folder, or a file in it.

    Raises:
        UsageError: it is one.
    """
    folder, target = (run if run.is_dir() else run.parent).resolve(), file.resolve()
    if folder not in target.parents or not target.exists():
        return
    first, *further = target.relative_to(folder).parts
    if first in _FOLDERS if further else (target.suffix in _SUFFIXES or first in _FILES):
        raise UsageError(f"{file} is a file of the run, and would be overwritten: name another file")


def say(line: str) -> None:
    """Tell a person what changed, and when. It may quote what another machine said."""
    sys.stdout.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {printable(line, kept=chr(10))}\n")
    sys.stdout.flush()


def until_stopped(logs: Path, serve: Callable[[Processes], None], told: Callable[[str], None]) -> None:
    """Run programs until a signal stops them, and end all of them then.

    Args:
        logs: folder of what they print.
        serve: starts them, and keeps them running.
        told: tells a person that they were stopped.
    """
    try:
        with stopped_by_signals(), Processes(logs) as processes:
            serve(processes)
    except Stopped:
        told("stopped")
