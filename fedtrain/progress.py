"""Work that takes longer than two seconds says what it is and how far it is, so that nobody takes it for a hang.

    with working("reading items", len(items)) as done:
        for number, item in enumerate(items, start=1):
            read(item)
            done(number)

What is said goes to the logger ``fedtrain.progress`` at level INFO. `shown` prints it to standard error, which is what
the command and `fedtrain.simulate` do unless they are to be silent.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_log = logging.getLogger(__name__)

FIRST = 2.0
"""Seconds until something is said."""

NEXT = 10.0
"""Seconds until something is said again."""


@dataclass(kw_only=True)
class _Work:
    what: str
    total: int | None
    started: float
    done: int = 0

    def __str__(self) -> str:
        # Not how many there are: the number of a client's records may be what nobody is to see.
        part = f": {100 * self.done // self.total} %" if self.total else ""
        return f"{self.what}{part} ({time.monotonic() - self.started:.0f} s)"


class _Stack(threading.local):
    """The work of a thread that is not done: what is outside first, what is inside last."""

    def __init__(self) -> None:
        self.works: list[_Work] = []


_stack = _Stack()


@contextmanager
def working(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Say what is done in this context, after two seconds and then every ten.

    Of work inside of other work, the innermost is said.

    Args:
        what: what is done, such as "decoding images".
        total: how many steps it has, where that is known.

    Yields:
        A function that takes how many steps are done.
    """
    works = _stack.works
    work = _Work(what=what, total=total, started=time.monotonic())

    def done(steps: int) -> None:
        work.done = steps

    works.append(work)
    try:
        if len(works) > 1:
            yield done
        else:
            with _watched(works):
                yield done
    finally:
        works.remove(work)


@contextmanager
def _watched(works: list[_Work]) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        wait = FIRST
        while not over.wait(wait):
            _log.info("%s", works[-1])
            wait = NEXT

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()  # a process that is copied later has no thread but its own


class _Printer(logging.Handler):
    """Prints lines to what is standard error at that time, which a live display may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        sys.stderr.write(f"{record.getMessage()}\n")
        sys.stderr.flush()


@contextmanager
def shown() -> Iterator[None]:
    """Print to standard error what work in this context says. Inside of another one, it is printed once."""
    if any(isinstance(handler, _Printer) for handler in _log.handlers):
        yield
        return
    printer, level, propagate = _Printer(), _log.level, _log.propagate
    _log.addHandler(printer)
    _log.setLevel(logging.INFO)
    _log.propagate = False  # or --verbose would print it twice
    try:
        yield
    finally:
        _log.removeHandler(printer)
        _log.setLevel(level)
        _log.propagate = propagate
