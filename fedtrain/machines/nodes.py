"""The nodes of a federation as its server sees them: a file in the server's folder that is kept up to date.

`fedtrain.flower.members`, which asks the SuperLink every few seconds, writes it; a status reads it and asks nobody. It
holds what the operator of the server knows: names, and when each node was there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from fedtrain.errors import SiteError
from fedtrain.files import write_atomic
from fedtrain.machines.folders import ServerFolder

SCHEMA = "fedtrain.nodes/1"

_FRESH = 15.0  # seconds

State = Literal["connected", "away", "never connected", "not known"]


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """A member's node.

    Attributes:
        name: the node's name.
        client: its number.
        state: whether it is connected; ``not known`` where nobody has looked lately.
        since: since when it is, or is not; seconds since 1970, ``None`` where that is not known.
        seen: when the SuperLink heard of it last, at the earliest; likewise.
        node: the SuperLink's number of it; ``None`` where it does not know the node.
    """

    name: str
    client: int
    state: State
    since: float | None = None
    seen: float | None = None
    node: int | None = None


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """All of them, as they were at a ``time``, in seconds since 1970."""

    time: float
    nodes: tuple[NodeState, ...]


def place(server: ServerFolder) -> Path:
    """Return the file."""
    return server.path / "run" / "nodes.json"


def write_nodes(server: ServerFolder, nodes: Nodes) -> None:
    """Replace the file, not durably: it is written again in a moment.

    Raises:
        StorageError: it cannot be written.
    """
    value = {"schema": SCHEMA, "time": nodes.time, "nodes": [asdict(node) for node in nodes.nodes]}
    write_atomic(place(server), json.dumps(value).encode(), durable=False)


def read_nodes(server: ServerFolder) -> Nodes | None:
    """Return the nodes; ``None`` where the server was never up.

    Raises:
        SiteError: the file cannot be read.
    """
    path = place(server)
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            raise SiteError(f"{path} is of another version of fedtrain: its schema is {value['schema']!r}")
        return Nodes(time=float(value["time"]), nodes=tuple(NodeState(**node) for node in value["nodes"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SiteError(f"{path} cannot be used: {error}; it is written again while fedtrain server up runs") from error


def is_recent(nodes: Nodes, now: float) -> bool:
    """Say whether somebody has looked lately: the file is kept up to date while a server is up and answers."""
    return now - nodes.time < _FRESH


def outdated(nodes: Iterable[NodeState]) -> tuple[NodeState, ...]:
    """Return nodes as they are to be told when nobody has looked lately: of none is known whether it is connected."""
    return tuple(
        node if node.state == "never connected" else replace(node, state="not known", since=None) for node in nodes
    )


def numbered(nodes: Iterable[NodeState]) -> dict[int, str]:
    """Return the name of each node by the SuperLink's number of it."""
    return {node.node: node.name for node in nodes if node.node is not None}


def connected(nodes: Iterable[NodeState]) -> list[str]:
    """Return the names of those that are connected."""
    return [node.name for node in nodes if node.state == "connected"]


def changes(before: Mapping[str, State], nodes: Iterable[NodeState]) -> list[str]:
    """Return in words which nodes came and went.

    >>> node = NodeState(name="hospital-a", client=0, state="away")
    >>> changes({"hospital-a": "connected"}, [node])
    ['hospital-a is not connected any more']
    """
    lines = []
    for node in nodes:
        known = before.get(node.name)
        if node.state == "connected" and known != "connected":
            lines.append(f"{node.name} is connected")
        elif node.state == "away" and known == "connected":
            lines.append(f"{node.name} is not connected any more")
    return lines
