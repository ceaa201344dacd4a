"""Whether the server's port is free, or served by this very server, and forwards nothing that it must not."""

import errno
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection

from cryptography import x509

from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.health.network import secure
from fedtrain.health.tls import PATIENCE, presented, trusting
from fedtrain.machines.federation import Federation
from fedtrain.machines.server import ServerFolder

# Lists all runs to anyone: the Control API of the open-source SuperLink has no authentication.
CONTROL = "/v1/control/list-runs"

_REFUSALS = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}


def nginx() -> Check:
    """Look for nginx, and ask for its version."""
    program = shutil.which("nginx")
    if program is None:
        return fails("nginx", "it is not installed, or not on PATH; on Debian run: apt-get install nginx")
    try:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, check=True, timeout=PATIENCE)  # noqa: S603 - found on PATH, as when it is started
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
        super().__init__(federation.host, federation.port, timeout=PATIENCE, context=context)
        self._address = address
        self._trusting = context

    def connect(self) -> None:
        plain = socket.create_connection(self._address, timeout=PATIENCE)
        self.sock = self._trusting.wrap_socket(plain, server_hostname=self.host)
