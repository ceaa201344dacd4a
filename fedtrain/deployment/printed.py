"""What a run prints, without what is Flower's own: its lines about tasks, and the traceback of a ServerApp.

All of it is in the log of the run. A person at the terminal reads what the app says, and one message where it fails.
"""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)"
_DATED = rf"\d\d/\d\d/\d{{4}} \d\d:\d\d:\d\d:{_LEVEL}:"  # as in the file of a log
_FLOWERS = re.compile(rf"{_LEVEL}\s*:(\s|$)|{_DATED}|Using SuperLink: |Successfully installed \S+ to ")
_EXIT = "Exit Code: "  # what follows says in general what such a code means
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


class AppLines:
    """Takes the lines of a run one by one, and gives those of its app.

    >>> lines = AppLines()
    >>> [line for line in ("INFO :      Starting", "round 1/4", "ERROR :    it raised") if lines.take(line) is not None]
    ['round 1/4']
    """

    def __init__(self) -> None:
        self._flowers = False  # the line before was Flower's, or belonged to one
        self._traceback = False  # within one, or within what follows an exit code

    def take(self, line: str) -> str | None:
        """Return a line of the app, without colours; ``None`` for one of Flower's, or of a traceback."""
        text = _COLOURS.sub("", line)
        if _FLOWERS.match(text):
            self._flowers, self._traceback = True, _EXIT in text
            return None
        if text == _TRACEBACK or text in _CHAINED:
            # What follows a line of Flower's is all Flower's, up to its next line: a message may have several lines.
            self._traceback = True
            return None
        if not self._traceback:
            self._flowers = False
            return text
        if not self._flowers and text and not text[0].isspace():
            self._traceback = False  # the exception itself, with which the app's own traceback ends
        return None
