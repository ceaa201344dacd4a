"""Whether a folder can be written, and how much fits."""

import shutil
import tempfile
from pathlib import Path

from fedtrain.health.check import Check, fails, ok, warns

# A round needs a bundle (10 MB at most) and a few copies of the model; the SuperLink's database keeps every message.
LEAST = 500 * 1024**2
COMFORTABLE = 5 * 1024**3

_GIB = 1024**3


def writable(folder: Path) -> Check:
    """Make a file in the folder, and remove it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return fails(
            "folder", f"{folder} cannot be written: {error.strerror or error}; let it belong to the user who runs this"
        )
    return ok("folder", f"{folder} can be written")


def free_space(folder: Path) -> Check:
    """Look at the space that is free on the folder's file system."""
    return space("disk", folder, shutil.disk_usage(folder).free)


def space(name: str, folder: Path, free: int) -> Check:
    """Judge a number of free bytes."""
    detail = f"{free / _GIB:.1f} GiB are free at {folder}"
    if free < LEAST:
        return fails(name, f"{detail}; make room: at least {LEAST / _GIB:.1f} GiB, better {COMFORTABLE / _GIB:.0f} GiB")
    if free < COMFORTABLE:
        return warns(name, f"{detail}, which may not be enough for a long run; better {COMFORTABLE / _GIB:.0f} GiB")
    return ok(name, detail)
