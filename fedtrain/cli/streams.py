"""What a command reads, prints and is told by signals, whatever it was started with."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

INTERRUPTED = 130
"""The exit status of a command that was interrupted, as shells have it."""


def prepare_streams() -> None:
    """Make standard input, output and error usable, whatever the process was started with.

    One that is closed, as by some schedulers, becomes the null device: the next file to be opened would have its
    descriptor, and get what is printed. A character that an encoding does not have is shown escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def answering(as_json: bool) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Give a function that prints an object as JSON. Nothing else is on standard output where that was asked for.

    What anybody prints in the meantime, and until the process ends, goes to standard error: a task, a library in C,
    worker processes and programs that they start.
    """
    stream, standard = sys.stdout, sys.__stdout__
    if not as_json:
        yield lambda answer: _write(stream, answer)
        return
    if (
        standard is None or stream is not standard or standard.fileno() != 1
    ):  # a stream of the program that calls this one
        with redirect_stdout(sys.stderr):
            yield lambda answer: _write(stream, answer)
        return
    standard.flush()
    with open(os.dup(1), "w", encoding="ascii") as kept:  # noqa: PTH123 - a descriptor
        os.dup2(2, 1)
        yield lambda answer: _write(kept, answer)


def _write(stream: TextIO, answer: Mapping[str, object]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


def on_termination(handler: Callable[[int, FrameType | None], object]) -> None:
    """Let a handler take SIGTERM, where this is the main thread: in another one the caller decides what signals do."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
