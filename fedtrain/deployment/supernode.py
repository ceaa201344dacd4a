"""A node in service: Flower's SuperNode with our check of bundles, and what starts a ClientApp for each message.

It connects again until it is stopped, always as the same node, and says once what keeps it from the server.
"""

import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedtrain.crypto import Identity
from fedtrain.deployment.processes import Processes, delays, environment, make_secret, superexec
from fedtrain.errors import FedtrainError, ForgeryError, KeyFileError, RunError, SiteError, StorageError
from fedtrain.health.check import Check
from fedtrain.health.directions import ask_directions, lost_advice
from fedtrain.health.network import reach
from fedtrain.ledger import read_policy
from fedtrain.machines.bundles import approved
from fedtrain.machines.connection import Connection, read_connection, write_connection
from fedtrain.machines.federation import read_membership
from fedtrain.machines.folders import NODE, NodeFolder
from fedtrain.machines.following import follow, settle
from fedtrain.machines.request import supernode_public

SUPERNODE, SUPEREXEC = "supernode", "superexec"

_CONNECTED = "SuperNode ID: "
_NUMBER = re.compile(rf"{_CONNECTED}(\d+)")
# Where the server is away, the SuperNode tries for ever, and tells its log alone.
_AWAY, _BACK = "Connection attempt failed", "Connection successful"
_TURNED_AWAY = "[code: 2004]"
_STABLE = 60.0  # seconds after which a connection counts, and the next wait is short again
_PAUSE = 0.5  # seconds between two looks
_NOTED = 10.0  # seconds between two notes of a connection
_ASKED = 600.0  # seconds between two questions for directions
_REMEMBERED = 90.0  # seconds for which the server counts a node as connected that is gone, and some more
_LEFT = 4.0  # seconds: a server asks for replies every three, and learns that those of a killed node do not come


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Whether a node can take part, before it connects.

    Attributes:
        member: whether the membership that it has seen holds its keys.
        bundles: how many bundles it would run.
    """

    member: bool
    bundles: int


def check_node(node: NodeFolder) -> Readiness:
    """Check the files of a node that its service needs.

    Raises:
        KeyFileError: a key cannot be used.
        SiteError: the site file, the membership or the approved bundles cannot be used, or new keys are half made; or
            Flower cannot read the path of the folder.
    """
    if not (text := str(node.path)).isprintable() or '"' in text or "\\" in text:
        raise SiteError(f"Flower cannot read the path {text!r}: move the folder to a path of plain characters")
    node.refuse_rotation()
    for key in (node.identity, node.supernode_key):
        if not key.exists():
            raise KeyFileError(f"there is no key {key}: make the node's keys with fedtrain client init {node.path}")
    identity, supernode = Identity.load(node.identity).public, supernode_public(node)
    read_policy(node.site)
    membership, _ = read_membership(node.membership, node.federation)
    keys = (membership.roster.clients.get(node.client), membership.supernodes.get(node.client))
    return Readiness(member=keys == (identity, supernode), bundles=len(approved(node.approved)))


def serve(
    node: NodeFolder,
    processes: Processes,
    say: Callable[[str], None],
    *,
    ask: Callable[[NodeFolder], Check],
    leave: Callable[[NodeFolder, int], bool],
) -> None:
    """Keep a node in service until this process is stopped.

    Args:
        node: its folder.
        processes: starts and ends its programs.
        say: tells a person what changed.
        ask: asks the server whether it lets the node in.
        leave: takes leave of the server for a SuperNode that was killed, whose number this is, and says whether the
            server counted it as connected.

    Raises:
        StorageError: a file cannot be written.
        RunError: a program cannot be started.
    """
    secret = node.path / "run" / "superexec.secret"
    make_secret(secret)
    variables = environment(node.path / "run" / "flwr")
    announcer = _Announcer(node, say)
    guide = Guide(node, say)
    waits: Iterator[float] = delays()
    while True:
        node, moved = guide.located(), False
        trusted = _trusted(node)
        announcer.turn_to(node)
        if announcer.lately and (number := _number(processes)) is not None and leave(node, number):
            time.sleep(_LEFT)
        port = _free_port()
        began = time.monotonic()
        start = seen = processes.size(SUPERNODE)
        processes.start(SUPERNODE, _supernode(node, port, secret), variables)
        connected = away = False
        while processes.status(SUPERNODE) is None and not (connected and processes.status(SUPEREXEC) is not None):
            time.sleep(_PAUSE)
            processes.trim()
            guide.ask_now_and_then(node)
            output, seen = _new_output(processes, seen)
            if not connected and _CONNECTED in output:
                connected = True
                # Where no server lets the node in, there is nothing to be done, and torch need not be imported.
                processes.start(SUPEREXEC, superexec(port, secret, ca=None), variables)
            answered = max(output.rfind(_CONNECTED), output.rfind(_BACK))
            if output.rfind(_AWAY) > answered:
                away = True
                announcer.lost(_unreached(node))
                found = guide.located()
                moved = found.federation.address != node.federation.address or _trusted(found) != trusted
                if moved:  # Flower would try the former for ever
                    break
            elif connected and (answered >= 0 or not away):
                away = False
                announcer.connected()
        processes.stop(SUPERNODE, SUPEREXEC)
        if connected and time.monotonic() - began > _STABLE:
            waits = delays()
        if moved:
            continue
        printed = processes.printed(SUPERNODE, start=start)
        announcer.lost(_reason(node, ask, printed, lately=announcer.lately))
        time.sleep(next(waits))


class Guide:
    """Says where a node's server is, by the operator's newest directions, and asks the server for them."""

    def __init__(self, node: NodeFolder, say: Callable[[str], None]) -> None:
        """Guide a node; ``say`` tells a person what changed."""
        self._node, self._say = node, say
        self._asked, self._said = time.monotonic(), ""

    def located(self) -> NodeFolder:
        """Return the node with the address to connect to: the newest that answers, or else the newest.

        Raises:
            SiteError: its directions cannot be read.
        """
        try:
            settle(self._node)
        except StorageError as error:  # a full disk keeps no node from its server
            self._complain(f"the directions of the operator are not taken over: {error}")
        node = NodeFolder.open(self._node.path)
        routes = node.federation.routes(datetime.now(UTC))
        for route in routes:
            reached, followed = self._follow(node, replace(node, federation=route))
            if followed:  # they may name another address
                return self.located()
            if reached:
                return replace(node, federation=route)
        return replace(node, federation=routes[0])

    def ask_now_and_then(self, node: NodeFolder) -> None:
        """Ask the server that a node is connected to for directions, if that was not done for a while.

        They hold from the next connection on: that of now may be in the middle of a round.
        """
        if time.monotonic() - self._asked > _ASKED:
            self._asked = time.monotonic()
            with suppress(FedtrainError):
                self._follow(NodeFolder.open(node.path), node)

    def _follow(self, node: NodeFolder, route: NodeFolder) -> tuple[bool, bool]:
        """Follow what the server at a route says; return whether it was reached, and whether it said something new.

        Raises:
            SiteError: the directions of the node cannot be read.
        """
        found = None
        try:
            envelope = ask_directions(route.federation, route.ca)
        except ForgeryError as error:
            self._complain(f"{route.federation.address} shows directions that count for nothing: {error}")
            return True, False
        except (RunError, KeyFileError):
            return False, False
        try:
            found = None if envelope is None else follow(node, envelope)
        except ForgeryError as error:
            self._complain(f"{route.federation.address} shows directions that count for nothing: {error}")
        except StorageError as error:
            self._complain(f"the directions of the operator are not taken over: {error}")
        if found is not None:
            self._say(
                f"the operator has directed this node to {found.address} (directions version {found.version})"
                + ("; the CA is being renewed" if len(found.authorities) > 1 else "")
            )
        return True, found is not None

    def _complain(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._say(line)


class _Announcer:
    """Tells a person what changed, once, and keeps it for a status."""

    def __init__(self, node: NodeFolder, say: Callable[[str], None]) -> None:
        self._node, self._say = node, say
        self._connected, self._said = False, ""
        before = None
        with suppress(SiteError):
            before = read_connection(node)
        self._seen = None if before is None else before.seen
        self._since, self._noted = time.time(), 0.0

    def turn_to(self, node: NodeFolder) -> None:
        """Speak of another address of the server from now on."""
        self._node = node

    @property
    def lately(self) -> bool:
        """Whether the node was connected a short while ago, also by a process before this one."""
        return self._seen is not None and time.time() - self._seen < _REMEMBERED

    def connected(self) -> None:
        self._seen = now = time.time()
        if not self._connected:
            self._connected, self._said, self._since = True, "", now
            self._say(f"connected to {self._node.federation.address} as {self._node.name}")
            self._note("connected")
        elif now - self._noted > _NOTED:
            self._note("connected")

    def lost(self, reason: str | None) -> None:
        # Measured again, a clock differs by other tenths of a second: that is no change.
        if reason is not None and (known := re.sub(r"\d", "", reason)) != self._said:
            self._connected, self._said, self._since = False, known, time.time()
            self._say(f"not connected to {self._node.federation.address}, trying again: {reason}")
            self._note("not connected", reason)

    def _note(self, state: Literal["connected", "not connected"], reason: str = "") -> None:
        self._noted = time.time()
        with suppress(StorageError):  # a full disk keeps no node from its server
            write_connection(self._node, Connection(state=state, since=self._since, seen=self._seen, reason=reason))


def _trusted(node: NodeFolder) -> bytes:
    try:
        return node.ca.read_bytes()
    except OSError:
        return b""


def _new_output(processes: Processes, seen: int) -> tuple[str, int]:
    """Return what the SuperNode printed from a place in its log on, and where what follows begins."""
    end = processes.size(SUPERNODE)
    # The log begins again when it has grown large.
    return processes.printed(SUPERNODE, start=seen if seen <= end else 0), end


def _number(processes: Processes) -> int | None:
    """Return the number of the last SuperNode that was connected, also one of a process before this one."""
    found = _NUMBER.findall(processes.printed(SUPERNODE))
    return int(found[-1]) if found else None


def _supernode(node: NodeFolder, port: int, secret: Path) -> list[str | Path]:
    return [
        sys.executable,
        "-m",
        "fedtrain.flower.supernode",
        node.approved,
        "--root-certificates",
        node.ca,
        "--superlink",
        node.federation.address,
        "--auth-supernode-private-key",
        node.supernode_key,
        "--isolation",
        "process",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--superexec-auth-secret-file",
        secret,
        "--node-config",
        f'{NODE}="{node.path}"',
    ]


def _reason(node: NodeFolder, ask: Callable[[NodeFolder], Check], printed: str, *, lately: bool) -> str | None:
    """Return what keeps a node from the server: what a try shows, or else what the SuperNode said last.

    ``None`` where nothing does any more: the server let the node in since it turned it away.
    """
    if (unreached := _unreached(node)) is not None:
        return unreached
    admitted = ask(node)
    if admitted.status == "fails":
        return admitted.detail
    if _TURNED_AWAY in printed:
        # A node that was not connected is one that the server learned of only now.
        if not lately:
            return None
        return "the server counts this node as connected; it lets it in again a minute after it saw it last"
    return f"the SuperNode ended; see {node.logs}"


def _unreached(node: NodeFolder) -> str | None:
    """Return why a try does not reach the server, ``None`` if it does."""
    failed = [check for check in reach(node.federation, node.ca) if check.status == "fails"]
    return None if not failed else f"{failed[0].name}: {failed[0].detail}; {lost_advice(node)}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
