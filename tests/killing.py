"""A process that is killed at a chosen step: from then on nothing of it reaches the disk, its clean-up neither."""

import os
import sys
from contextlib import contextmanager

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PLACES = {
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
}


class Killed(BaseException):
    """The process ended here."""


class _Steps:
    def __init__(self):
        self.folder, self.left, self.taken = None, 0, 0

    def __call__(self, event, arguments):
        if self.folder is None or not self._writes(event, arguments):
            return
        self.taken += 1
        if self.taken > self.left:
            raise Killed

    def _writes(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = flags & _WRITING if mode is None else set(mode) & set("wax+")
            return writes and self._inside(path)
        # What is inside of an open folder is named without it.
        return event in _PLACES and any(
            self._inside(arguments[place]) or not str(arguments[place]).startswith("/") for place in _PLACES[event]
        )

    def _inside(self, path):
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder)


_STEPS = _Steps()
sys.addaudithook(_STEPS)


@contextmanager
def killed_after(steps, folder):
    """Kill the block when it does more than so many steps to what is under a folder. Yields a list, empty if not."""
    _STEPS.folder, _STEPS.left, _STEPS.taken = str(folder), steps, 0
    killed = []
    try:
        yield killed
    except Killed:
        killed.append(steps)
    finally:
        _STEPS.folder = None
