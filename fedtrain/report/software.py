"""What code ran, by a digest that others can compute from the same code."""

from hashlib import sha256
from pathlib import Path

from rfc8785 import dumps as canonical


def source_digest(folder: Path) -> str:
    """Return the SHA-256 of the Python files of a package, in hexadecimal.

    It is that of the canonical JSON (RFC 8785) of one object: the path of each file, relative to the folder and with
    forward slashes, and the SHA-256 of its bytes. An installed package and a checkout of the same code have the same.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(file for file in folder.rglob("*.py") if file.is_file())
    return sha256(
        canonical({file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files})
    ).hexdigest()
