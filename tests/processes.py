"""What tests see of processes that they did not start themselves."""

import os
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 30


def runs(pid):
    """Say whether a process is there, and not only its exit status."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
