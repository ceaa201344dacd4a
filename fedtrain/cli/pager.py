"""Show a long text a page at a time, where a person sits at a terminal; elsewhere write it out."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

# A person who reads somebody else's text gets no shell, editor or other file from within less.
_SECURE = {"LESSSECURE": "1"}
_RUNS_PROGRAMS = {"LESSOPEN", "LESSCLOSE"}


def page(head: Sequence[str], lines: Sequence[str]) -> None:
    """Show lines with the pager that the environment names (``PAGER``), or with less.

    No shell reads the name. Where there is no terminal, or the pager fails, the lines are written to standard output.

    Args:
        head: what a pager shows before them; a caller writes it again below them.
        lines: what is to be read.
    """
    command = _pager() if sys.stdin.isatty() and sys.stdout.isatty() else None
    if command is None or not _paged(command, _text([*head, *lines])):
        sys.stdout.write(_text(lines))
        sys.stdout.flush()


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _pager() -> list[str] | None:
    if os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        words = shlex.split(os.environ.get("PAGER") or "less")
    except ValueError:  # a quotation that does not end
        return None
    found = shutil.which(words[0]) if words else None
    return None if found is None else [found, *words[1:]]


def _paged(command: list[str], text: str) -> bool:
    """Show a text, and say whether that worked."""
    environment = {name: value for name, value in os.environ.items() if name not in _RUNS_PROGRAMS} | _SECURE
    sys.stdout.flush()
    # Ctrl-C in a pager ends a search there, and not this command. A handler, unlike SIG_IGN, is not inherited.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        done = subprocess.run(  # noqa: S603 - the user's own choice, which no shell reads
            command,
            input=text.encode(sys.stdout.encoding or "utf-8", errors="backslashreplace"),
            env=environment,
            check=False,
        )
    except OSError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode == 0
