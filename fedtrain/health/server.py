"""All checks of a server's folder, in the order in which one depends on the other.

The server's port is free, or served by this very server, and forwards nothing that it must not. The SuperLink is within
reach of this machine alone, and its database is in order.
"""

import errno
import os
import re
import shutil
import socket
import sqlite3
import ssl
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509

from fedtrain.errors import KeyFileError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.health.keys import (
    authorities_hold,
    closed,
    covers,
    identity,
    issued,
    membership,
    opened_by,
    read_certificate,
    read_certificates,
    server_admitted,
    validity,
)
from fedtrain.health.machine import free_space, installed, writable
from fedtrain.health.network import TIMEOUT, presented, resolve, secure, trusting
from fedtrain.machines.federation import Federation, read_directions
from fedtrain.machines.folders import ServerFolder

_RENEW = "the operator makes a new one with fedtrain provision rotate-server"
_NEW_CA = "the operator renews it with fedtrain provision renew-ca"
# Lists all runs to anyone: the Control API of the open-source SuperLink has no authentication.
CONTROL = "/v1/control/list-runs"
_REFUSALS = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
_LISTENS = "0A"  # TCP_LISTEN of the kernel's include/net/tcp_states.h
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def server_checks(server: ServerFolder) -> Iterator[Check]:
    """Check a server's folder, what is installed, and what runs on its port. Nothing is changed."""
    yield installed()
    yield nginx()
    yield closed(server.path)
    yield writable(server.path)
    yield free_space(server.path)
    yield database(server.database)
    yield from _identity(server)
    try:
        authorities, own = read_certificates(server.ca), read_certificate(server.certificate)
    except KeyFileError as error:
        yield fails("certificate", f"{error}; copy the folder server/ from the operator again")
        return
    yield from certificate_checks(server, authorities, own)
    yield from directions_hold(server, own)
    name, _ = resolve(server.federation)
    # Here the name may be known inside another network only.
    yield name if name.status == "ok" else warns(name.name, f"{name.detail}; nodes need it, this machine does not")
    yield from gateway(server, own)
    yield loopback_only(server.database)


def _identity(server: ServerFolder) -> Iterator[Check]:
    check, own = identity(server.identity, made_by="fedtrain provision init")
    yield check
    check, found = membership(server.membership, server.federation)
    yield check
    if own is not None and found is not None:
        yield server_admitted(found, own)


def directions_hold(server: ServerFolder, own: x509.Certificate) -> Iterator[Check]:
    """Check what the server tells nodes of its address and its authorities, if it tells them anything.

    Nodes that followed directions to an authority that did not issue its certificate would not reach it any more.
    """
    found = read_directions(server.directions, server.federation)
    if found is None:
        return
    directions, _ = found
    if server.ca.read_bytes() != directions.certificates:
        yield fails("directions", "ca.pem is not what directions.json names; copy both from the operator's server/")
        return
    detail = f"version {directions.version}, signed by the operator: nodes are told {directions.address}"
    for route in server.federation.routes(datetime.now(UTC))[1:]:
        detail += f"; {route.address} is served too, if it is this machine's"
        if (check := covers(own, route.host)).status == "fails":
            yield check
    retires = directions.authorities[-1].retires
    if retires is not None:
        detail += f"; the CA is being renewed, and the former one retires on {retires:%Y-%m-%d}"
    yield ok("directions", detail)


def certificate_checks(
    server: ServerFolder, authorities: Sequence[x509.Certificate], own: x509.Certificate
) -> Iterator[Check]:
    """Check that a server's certificates hold now, and belong to one another, to its name and to its key."""
    now = datetime.now(UTC)
    yield from authorities_hold(authorities, now, advice=_NEW_CA)
    yield validity("certificate", own, now, advice=_RENEW)
    yield issued(own, authorities)
    yield covers(own, server.federation.host)
    yield opened_by(own, server.certificate_key)


def nginx() -> Check:
    """Look for nginx, and ask for its version."""
    program = shutil.which("nginx")
    if program is None:
        return fails("nginx", "it is not installed, or not on PATH; on Debian run: apt-get install nginx")
    try:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, check=True, timeout=TIMEOUT)  # noqa: S603 - found on PATH, as when it is started
    except (OSError, subprocess.SubprocessError) as error:
        return fails("nginx", f"{program} does not run: {error}; install Debian's package anew")
    return ok("nginx", f"{program}, {done.stderr.strip().removeprefix('nginx version: ')}")


def gateway(server: ServerFolder, certificate: x509.Certificate) -> Iterator[Check]:
    """Check the federation's port on this machine: free, or answered with this server's certificate.

    Args:
        server: the folder of the server.
        certificate: its TLS certificate.
    """
    port = server.federation.port
    problem = _bind(port)
    if problem is None:
        yield ok("port", f"{port} is free; `fedtrain server up` is not running here")
        return
    if problem.errno != errno.EADDRINUSE:
        yield fails("port", f"{port} cannot be used: {problem.strerror}; a port above 1023 needs no privileges")
        return
    for host in ("127.0.0.1", server.federation.host):
        if presented(server.federation, (host, port)) == certificate:
            yield ok("port", f"{port} is served with server.crt, at {host}")
            yield from secure(server.federation, server.ca, (host, port))
            yield control_api(server, (host, port))
            return
    yield fails(
        "port",
        f"{port} is in use by something that does not show server.crt: another program (`ss -ltnp` names it), or a "
        "gateway that was started before the certificate was changed and has to be restarted",
    )


def _bind(port: int) -> OSError | None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError as error:
            return error
    return None


def control_api(server: ServerFolder, address: tuple[str, int]) -> Check:
    """Ask for the runs through the gateway, as anybody could. The gateway must refuse."""
    name = "Control API"
    try:
        status = _post(server, address)
    except (OSError, HTTPException) as error:
        return warns(name, f"not checked: the gateway does not answer ({error or type(error).__name__})")
    if status in _REFUSALS:
        return ok(name, f"the gateway refuses it ({status})")
    return fails(
        name,
        f"{CONTROL} was answered with status {status} through the gateway: anyone who reaches this port can run code. "
        "Stop it, and start the gateway with fedtrain server up alone",
    )


def _post(server: ServerFolder, address: tuple[str, int]) -> int:
    connection = _Pinned(server.federation, trusting(server.ca), address)
    try:
        connection.request("POST", CONTROL, body=b"", headers={"Content-Type": "application/protobuf"})
        return connection.getresponse().status
    finally:
        connection.close()


class _Pinned(HTTPSConnection):
    """A connection to the federation's server at an address that its name may not lead to from here."""

    def __init__(self, federation: Federation, context: ssl.SSLContext, address: tuple[str, int]) -> None:
        super().__init__(federation.host, federation.port, timeout=TIMEOUT, context=context)
        self._address = address
        self._trusting = context

    def connect(self) -> None:
        plain = socket.create_connection(self._address, timeout=TIMEOUT)
        self.sock = self._trusting.wrap_socket(plain, server_hostname=self.host)


def loopback_only(database: Path) -> Check:
    """Judge where the SuperLink that uses this database listens, by what the kernel says (Linux).

    Args:
        database: by which the SuperLink of this server is told from others.
    """
    found = [process for process in _processes() if _is_superlink(process, database)]
    if not found:
        return ok("SuperLink", "it is not running here")
    sockets = {inode for process in found for inode in _sockets(process)}
    tables = "".join(_text(Path("/proc/net") / name) for name in ("tcp", "tcp6"))
    return listening([address for address, inode in listeners(tables) if inode in sockets])


def listening(addresses: list[tuple[IPv4Address | IPv6Address, int]]) -> Check:
    """Judge the addresses and ports that the SuperLink listens at."""
    if not addresses:
        return warns("SuperLink", "it runs, and where it listens cannot be seen; run this as the same user")
    if outside := [f"{address}:{port}" for address, port in addresses if not _loopback(address)]:
        return fails(
            "SuperLink",
            f"it listens at {', '.join(outside)}, so that other machines reach its Control API, which has no "
            "authentication; stop it, and start it with fedtrain server up alone",
        )
    return ok("SuperLink", f"it listens at {', '.join(f'{address}:{port}' for address, port in addresses)} alone")


def listeners(table: str) -> list[tuple[tuple[IPv4Address | IPv6Address, int], int]]:
    """Return address, port and inode of each listening socket in the text of ``/proc/net/tcp`` or ``tcp6``."""
    found = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS:  # noqa: PLR2004 - the tenth is the inode
            address, port = fields[1].split(":")
            found.append(((_address(address), int(port, 16)), int(fields[9])))
    return found


def database(path: Path) -> Check:
    """Judge the SuperLink's database, which holds all messages of its runs."""
    if not path.exists():
        return ok("database", f"{path.name} will be made at the first start")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and path.parent.stat().st_mode & 0o055:
        return fails("database", f"others can use {path} (mode {mode:04o}); run: chmod 600 {path}")
    if not os.access(path, os.W_OK):
        return fails("database", f"{path} cannot be written; let it belong to the user who runs the server")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        return fails("database", f"{path} cannot be read: {error}; restore it, or move it away (its runs are lost)")
    return ok("database", f"{path.name}, {path.stat().st_size / 1024**2:.0f} MiB, can be written")


def _processes() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*") if path.name.isdigit()]


def _is_superlink(process: Path, database_file: Path) -> bool:
    arguments = _text(process / "cmdline").split("\0")
    return any("flower-superlink" in argument for argument in arguments) and str(database_file) in arguments


def _sockets(process: Path) -> set[int]:
    found = set()
    try:
        for link in (process / "fd").iterdir():
            if match := _SOCKET.fullmatch(str(link.readlink())):
                found.add(int(match[1]))
    except OSError:  # it ended, or belongs to somebody else
        return found
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # a process that ended
        return ""


def _address(text: str) -> IPv4Address | IPv6Address:
    # Words of 32 bits in the byte order of the machine, which is little-endian wherever this runs.
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)  # noqa: PLR2004 - bytes of IPv4


def _loopback(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
