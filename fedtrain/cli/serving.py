"""What the commands do that stay until they are stopped."""

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fedtrain.deployment.processes import Processes, Stopped, stopped_by_signals


def say(line: str) -> None:
    """Tell a person what changed, and when."""
    sys.stdout.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}\n")
    sys.stdout.flush()


def until_stopped(logs: Path, serve: Callable[[Processes], None]) -> None:
    """Run programs until a signal stops them, and end all of them then.

    Args:
        logs: folder of what they print.
        serve: starts them, and keeps them running.
    """
    try:
        with stopped_by_signals(), Processes(logs) as processes:
            serve(processes)
    except Stopped:
        say("stopped")
