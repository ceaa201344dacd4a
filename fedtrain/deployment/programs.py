"""What Flower's programs have in common, on a server's machine and on a node's."""

import os
import sys
from pathlib import Path
from secrets import token_hex

from fedtrain.crypto import read_or_create_secret

_SECRET_BYTES = 32


def program(name: str) -> Path:
    """Return where one of Flower's programs is: beside the Python that runs this."""
    return Path(sys.executable).parent / name


def environment(home: Path) -> dict[str, str]:
    """Return what all of Flower's programs find in their environment.

    Args:
        home: Flower's own folder.
    """
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # Flower starts some of its programs by their names.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def make_secret(path: Path) -> None:
    """Make the secret that Flower's SuperExec and what it works for know each other by, where there is none.

    Another user of the machine could otherwise take the messages.

    Raises:
        KeyFileError: the file can be used by others.
        StorageError: it cannot be written.
    """
    read_or_create_secret(path, lambda: token_hex(_SECRET_BYTES).encode())


def superexec(port: int, secret: Path, *, ca: Path | None) -> list[str | Path]:
    """Return the command of a SuperExec, which starts an app for each task.

    Args:
        port: of what it works for, on this machine's loopback.
        secret: the file of the secret between the two.
        ca: the CA of the other's certificate; ``None`` for a SuperNode, which has none: its ClientApps are started from
            a process that has imported what they need.
    """
    own = [sys.executable, "-m", "fedtrain.flower.superexec", "--insecure"]
    return [
        *(own if ca is None else [program("flower-superexec"), "--root-certificates", ca]),
        "--runtime-api-address",
        f"127.0.0.1:{port}",
        "--superexec-auth-secret-file",
        secret,
    ]
