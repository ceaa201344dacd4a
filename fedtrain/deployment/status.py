"""Where a server and its federation stand: its nodes, and its runs, read from the server's folder alone.

Nobody is asked: the nodes are in a file that the server keeps while it is up, and runs write their events.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedtrain.deployment.processes import is_running
from fedtrain.errors import StorageError
from fedtrain.health.keys import ending
from fedtrain.machines import Federation, ServerFolder
from fedtrain.machines.nodes import Nodes, NodeState, connected, is_recent, outdated, read_nodes
from fedtrain.report.numbers import duration, printable, short
from fedtrain.status import FILE, Follower, RunStatus, as_json
from fedtrain.status.words import Said, described, fitted, site_in

_LOOKED = 8  # of the latest runs, for one that goes on
_NODES = 40  # lines
_NAMED = 8  # nodes in a line
_LONG = 32  # letters of a name: a longer one would leave no room for what is said of its node


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """Where a server stands.

    Attributes:
        federation, address: of the federation.
        directions: the version of the operator's directions that the server has; 0 where its first address holds.
        up: whether ``fedtrain server up`` runs for its folder.
        nodes: its nodes as they were seen last; ``None`` where it was never up.
        runs: by name, the runs that go on, or else the latest one.
        ending: what to say of certificates that end soon.
    """

    federation: str
    address: str
    directions: int
    up: bool
    nodes: Nodes | None
    runs: tuple[tuple[str, RunStatus], ...]
    ending: tuple[str, ...] = ()


class ServerView:
    """Looks at a server, again and again."""

    def __init__(self, server: ServerFolder) -> None:
        """Look at the server of a folder."""
        self._server = server
        self._followers: dict[Path, Follower] = {}

    def status(self) -> ServerStatus:
        """Return where the server stands now.

        Raises:
            SiteError: its files cannot be read.
        """
        server, federation = self._server, Federation.read(self._server.path)  # directions may be new
        return ServerStatus(
            federation=federation.id,
            address=federation.address,
            directions=federation.directions,
            up=is_running(server.path),
            nodes=read_nodes(server),
            runs=self._current(),
            ending=tuple(
                ending([("the server's certificate", server.certificate), ("the CA", server.ca)], datetime.now(UTC))
            ),
        )

    def _current(self) -> tuple[tuple[str, RunStatus], ...]:
        found = self.runs(most=_LOOKED)
        return tuple(run for run in found if run[1].state == "running") or tuple(found[:1])

    def runs(self, *, most: int | None = None) -> list[tuple[str, RunStatus]]:
        """Return the runs of the server by name, those first that wrote last."""
        files = sorted(self._server.runs.glob(f"*/{FILE}"), key=_written, reverse=True)[:most]
        found = []
        for file in files:
            try:
                status = self._followers.setdefault(file, Follower(file)).status()
            except StorageError:  # of another version of fedtrain
                continue
            if status is not None:
                found.append((file.parent.name, status))
        return found


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def status_as_json(status: ServerStatus, *, now: float) -> dict[str, Any]:
    """Return where a server stands as a JSON object."""
    nodes = _nodes_now(status, now)
    return {
        "federation": status.federation,
        "address": status.address,
        "directions": status.directions,
        "up": status.up,
        "answers": _is_fresh(status, now),
        "connected": len(connected(nodes)),
        "ending": list(status.ending),
        "nodes": [
            {name: value for name, value in asdict(node).items() if name != "node"}  # too large for some readers
            | {"software": _software(status, node), "directions": _followed(status, node)}
            for node in nodes
        ],
        "runs": [{"run": name, **as_json(run, now=now)} for name, run in status.runs],
    }


def _software(status: ServerStatus, node: NodeState) -> str | None:
    """Return the version of fedtrain that a node said it runs, in the latest run that it took part in."""
    said = (run.begun.software.get(node.client) for _, run in status.runs)
    return next((printable(text) for text in said if text), None)


def _followed(status: ServerStatus, node: NodeState) -> int | None:
    """Return the version of the directions that a node said it follows, in the latest run that it took part in."""
    said = (run.begun.directions.get(node.client) for _, run in status.runs)
    return next((version for version in said if version is not None), None)


def _is_fresh(status: ServerStatus, now: float) -> bool:
    return status.up and status.nodes is not None and is_recent(status.nodes, now)


def _nodes_now(status: ServerStatus, now: float) -> tuple[NodeState, ...]:
    """Return the nodes. What was seen of them before the server went down does not say how they stand."""
    nodes = () if status.nodes is None else status.nodes.nodes
    return nodes if _is_fresh(status, now) else outdated(nodes)


def server_described(status: ServerStatus, *, now: float, width: int = 140) -> list[Said]:
    """Return where a server stands, in lines of text."""
    lines = [_headline(status, now), *(Said(text=line, tone="bad") for line in status.ending)]
    nodes = _nodes_now(status, now)
    run = status.runs[0][1] if status.runs else None
    if nodes:
        lines.append(Said(text=f"nodes      {len(connected(nodes))} of {len(nodes)} are connected"))
        lines += _nodes(status, nodes, run, now)
        lines += _following(status, nodes)
    for name, each in status.runs:
        lines += [Said(text=""), Said(text=f"run {name}", tone="title")]
        lines += described(each, now=now, width=width, sites=False)
    if not status.runs:
        lines.append(Said(text="no run was begun"))
    return fitted(lines, width)


def _headline(status: ServerStatus, now: float) -> Said:
    what = f"federation {status.federation[:8]} at {status.address}"
    if not status.up:
        return Said(text=f"{what}: the server is not up", tone="bad")
    if not _is_fresh(status, now):
        return Said(
            text=f"{what}: the server is up, and its SuperLink does not answer; see logs/superlink.log", tone="bad"
        )
    return Said(text=f"{what}: up", tone="good")


def _nodes(status: ServerStatus, nodes: Sequence[NodeState], run: RunStatus | None, now: float) -> list[Said]:
    late = () if run is None else run.late(now)
    # Those that want looking at come first.
    ordered = sorted(nodes, key=lambda node: (node.client not in late, node.state == "connected", node.client))
    shown = ordered[:_NODES]
    names = [short(node.name, _LONG) for node in shown]
    width = max(map(len, names))
    software = [f"says {found}" if (found := _software(status, node)) else "" for node in shown]
    lines = []
    for node, name, said in zip(shown, names, software, strict=True):
        parts = [f"  {name:<{width}}", f"{node.state:<15}", f"{_times(node, now):<26}"]
        if any(software):
            parts.append(f"{said:<{max(map(len, software))}}")
        if run is not None and run.state == "running" and not run.begun.withheld:
            parts.append(site_in(run, node.client, late=late))
        bad = node.state != "connected" or node.client in late
        lines.append(Said(text="  ".join(parts), tone="bad" if bad else "text"))
    if len(ordered) > _NODES:
        rest = ordered[_NODES:]
        away = len(rest) - len(connected(rest))
        lines.append(Said(text=f"  and {len(rest)} more, {away} of them not connected", tone="faint"))
    return lines


def _following(status: ServerStatus, nodes: Sequence[NodeState]) -> list[Said]:
    """Return which nodes follow the newest directions, as each said when the run began that is shown."""
    if not status.directions:
        return []
    silent, by_version = list[str](), dict[int, list[str]]()
    for node in sorted(nodes, key=lambda node: node.client):
        version = _followed(status, node)
        (silent if version is None else by_version.setdefault(version, [])).append(node.name)
    lines = [Said(text=f"directions of the operator, version {status.directions}, as nodes say when a run begins")]
    for version, names in sorted(by_version.items(), reverse=True):
        newest = version >= status.directions
        what = "follow them" if newest else f"follow version {version}" if version else "follow their kit"
        lines.append(Said(text=f"  {what}: {_listed(names)}", tone="text" if newest else "bad"))
    if silent:
        lines.append(Said(text=f"  not known: {_listed(silent)}", tone="faint"))
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _times(node: NodeState, now: float) -> str:
    since = "" if node.since is None else f"for {duration(max(0.0, now - node.since))}"
    seen = "" if node.seen is None else f"seen {duration(max(0.0, now - node.seen))} ago"
    return ", ".join(filter(None, (since, seen)))
