"""What code ran: versions and digests."""

import platform
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution, version
from pathlib import Path

import fedtrain

_PACKAGES = ("torch", "opacus", "flwr", "dp-accounting", "cryptography", "numpy")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that the results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@cache
def digests() -> dict[str, str]:
    """Return a SHA-256 for our own source files, and for each package.

    Of ours, over the names and bytes of all Python files. Of a package, over the list of its files that was installed
    with it, which has a digest of each: it tells which release was installed, not whether its files were changed since.
    """
    root = Path(fedtrain.__file__).parent.parent
    ours = sha256()
    for folder in ("fedtrain", "server", "clients"):
        for file in sorted((root / folder).rglob("*.py")):
            data = file.read_bytes()
            ours.update(f"{file.relative_to(root).as_posix()} {len(data)}\n".encode())
            ours.update(data)
    installed = {name: (distribution(name).read_text("RECORD") or "").encode() for name in _PACKAGES}
    return {"fedtrain": ours.hexdigest(), **{name: sha256(data).hexdigest() for name, data in installed.items()}}
