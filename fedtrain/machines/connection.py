"""How a node's own connection stands: a file in its folder that ``client up`` keeps, and a status reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fedtrain.errors import SiteError, StorageError
from fedtrain.files import write_atomic
from fedtrain.machines.folders import NodeFolder


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A node's connection to its server.

    Attributes:
        state: whether it is connected.
        since: since when, in seconds since 1970.
        seen: when it was connected last, to some seconds; ``None`` where it never was.
        reason: why it is not; empty where it is.
    """

    state: Literal["connected", "not connected"]
    since: float
    seen: float | None = None
    reason: str = ""


def _place(node: NodeFolder) -> Path:
    return node.path / "run" / "connection.json"


def write_connection(node: NodeFolder, connection: Connection) -> None:
    """Replace the file, not durably: it is written again in a moment.

    Raises:
        StorageError: it cannot be written.
    """
    path = _place(node)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    write_atomic(path, json.dumps(asdict(connection)).encode(), durable=False)


def read_connection(node: NodeFolder) -> Connection | None:
    """Return the connection; ``None`` where the node was never up.

    Raises:
        SiteError: the file cannot be read.
    """
    path = _place(node)
    try:
        return Connection(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise SiteError(f"{path} cannot be used: {error}; fedtrain client up writes it again") from error
