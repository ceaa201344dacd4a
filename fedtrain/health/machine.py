"""Whether what is installed is what fedtrain asks for, and whether a folder can be written and how much fits."""

import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from fedtrain.health.check import Check, fails, ok, warns

SHOWN = ("fedtrain", "flwr", "torch", "opacus", "cryptography")

# A round needs a bundle (10 MB at most) and a few copies of the model; the SuperLink's database keeps every message.
LEAST = 500 * 1024**2
COMFORTABLE = 5 * 1024**3
_GIB = 1024**3


def installed() -> Check:
    """Compare the installed packages with the versions that fedtrain allows."""
    found = {name: _version(name) for name in SHOWN}
    return compare(platform.python_version(), found, requires("fedtrain") or ())


def compare(python: str, found: Mapping[str, str | None], requirements: Sequence[str]) -> Check:
    """Judge versions.

    Args:
        python: version of Python.
        found: version of each package; ``None`` where it is not installed.
        requirements: what fedtrain asks for, as in its metadata.
    """
    allowed = {each.name: each.specifier for each in map(Requirement, requirements) if each.marker is None}
    if missing := [name for name, its in found.items() if its is None]:
        return fails("versions", f"{', '.join(missing)} is not installed; install fedtrain with its constraints.txt")
    for name, its in found.items():
        if name in allowed and its is not None and not allowed[name].contains(its, prereleases=True):
            return fails(
                "versions",
                f"{name} {its} is installed, and fedtrain works with {allowed[name]} alone; "
                f"run: pip install '{name}{allowed[name]}'",
            )
    return ok("versions", ", ".join(["Python " + python, *(f"{name} {its}" for name, its in found.items())]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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
