"""Whether what is installed is what fedtrain asks for."""

import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from fedtrain.health.check import Check, fails, ok

SHOWN = ("fedtrain", "flwr", "torch", "opacus", "cryptography")

_PIN = re.compile(r"([\w.-]+)==([\w.+!]+)")


def installed() -> Check:
    """Compare the installed packages with those that fedtrain pins."""
    found = {name: _version(name) for name in SHOWN}
    return compare(platform.python_version(), found, requires("fedtrain") or ())


def compare(python: str, found: Mapping[str, str | None], requirements: Sequence[str]) -> Check:
    """Judge versions.

    Args:
        python: version of Python.
        found: version of each package; ``None`` where it is not installed.
        requirements: what fedtrain asks for, as in its metadata.
    """
    pins = {pin[1]: pin[2] for requirement in requirements if (pin := _PIN.fullmatch(requirement))}
    if missing := [name for name, its in found.items() if its is None]:
        return fails("versions", f"{', '.join(missing)} is not installed; install fedtrain with its constraints.txt")
    if other := [name for name in pins.keys() & found.keys() if found[name] != pins[name]]:
        name = other[0]
        return fails(
            "versions",
            f"{name} {found[name]} is installed, and fedtrain works with {pins[name]} alone; "
            f"run: pip install {name}=={pins[name]}",
        )
    return ok("versions", ", ".join(["Python " + python, *(f"{name} {its}" for name, its in found.items())]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
