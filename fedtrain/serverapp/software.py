"""What code ran: versions and digests."""

import platform
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution, version
from pathlib import Path

import fedtrain
from fedtrain.errors import AppError
from fedtrain.flower.app import ENTRY_POINTS, shipped

_PACKAGES = ("torch", "opacus", "flwr", "dp-accounting", "cryptography", "numpy")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that the results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@cache
def digests() -> dict[str, str]:
    """Return a SHA-256 for our own source files, and for each package.

    Of ours, over the names and bytes of all Python files of the library and of the app's entry points: the same from a
    checkout, from a wheel, and from Flower's copy of a bundle. Of a package, over the list of its files that was
    installed with it, which has a digest of each: it tells which release was installed, not whether its files were
    changed since.

    Raises:
        AppError: a file cannot be read.
    """
    library, app = Path(fedtrain.__file__).resolve().parent, entry_points()
    found = {f"fedtrain/{file.relative_to(library).as_posix()}": file for file in library.rglob("*.py")}
    # A wheel has the entry points inside of the library; those that run may be others.
    found = {name: file for name, file in found.items() if not name.startswith("fedtrain/app/")}
    found |= {name: app / name for name in ENTRY_POINTS}
    ours = sha256()
    for name, file in sorted(found.items()):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise AppError(f"cannot read {file}, which is a part of what runs: {error.strerror or error}") from error
        ours.update(f"{name} {len(data)}\n".encode())
        ours.update(data)
    installed = {name: (distribution(name).read_text("RECORD") or "").encode() for name in _PACKAGES}
    return {"fedtrain": ours.hexdigest(), **{name: sha256(data).hexdigest() for name, data in installed.items()}}


def entry_points() -> Path:
    """Return the folder that has ``server/app.py``: where Python imported it from, else where it is installed.

    Flower unpacks a bundle into a folder of its own and imports the entry points from there.
    """
    module = sys.modules.get("server.app")
    if module is None or module.__file__ is None:
        return shipped()
    return Path(module.__file__).resolve().parent.parent
