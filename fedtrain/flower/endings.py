"""Let a ServerApp whose run is stopped say its last word.

Flower raises an exception in it, and kills it five seconds later. To write a report can take longer on a machine that
is busy, and then there is none.
"""

import importlib

_TIME = 60.0  # seconds, as long as `fedtrain server run` waits for it


def allow_last_word() -> None:
    """Let Flower wait for a minute before it kills this process, once it has asked it to end."""
    vars(importlib.import_module("flwr.supercore.exit.exit"))["FORCE_EXIT_TIMEOUT_SECONDS"] = _TIME
