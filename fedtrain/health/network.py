"""Whether this machine reaches the federation's server: name, port, TLS, answer, clock."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

from cryptography import x509

from fedtrain.errors import KeyFileError
from fedtrain.health.certificates import validity
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.health.clock import compare_clocks
from fedtrain.health.tls import PATIENCE, explain, presented, trusting
from fedtrain.machines.federation import Federation

_BEHIND_GATEWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


def reach(federation: Federation, ca: Path) -> Iterator[Check]:
    """Check the way to the server, step by step, as far as it goes.

    Args:
        federation: says where the server is.
        ca: the certificate of the CA that is trusted, PEM.
    """
    if through := proxy(federation.host):
        yield warns(
            "proxy",
            f"this machine's settings send TLS to {federation.host} through {through}, which the SuperNode obeys; "
            f"name, port, certificate and clock were not checked; NO_PROXY={federation.host} goes there directly",
        )
        return
    name, addresses = resolve(federation)
    yield name
    if not addresses:
        yield warns("connection", "not tried: port, TLS and clock cannot be checked without an address")
        return
    port, address = connect(federation, addresses)
    yield port
    if address is None:
        yield warns("TLS", "not tried: certificate and clock cannot be checked without a connection")
        return
    yield from secure(federation, ca, address)


def proxy(host: str) -> str | None:
    """Return the proxy, without a password, that Flower's HTTP client takes for TLS to a host by the environment."""
    proxies = getproxies()
    found = proxies.get("https") or proxies.get("all")
    if not found or proxy_bypass(host):
        return None
    return found.rpartition("@")[2] if "@" in found else found


def resolve(federation: Federation) -> tuple[Check, list[str]]:
    """Look the server's name up. Returns the addresses, none if it fails."""
    host = federation.host
    try:
        found = socket.getaddrinfo(host, federation.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # of a name that cannot be one
        return fails(
            "DNS",
            f"{host} has no address ({getattr(error, 'strerror', None) or error}); ask for the name in this "
            "network's DNS, or write it into /etc/hosts",
        ), []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return ok("DNS", host if addresses == [host] else f"{host} is {', '.join(addresses)}"), addresses


def connect(federation: Federation, addresses: list[str]) -> tuple[Check, tuple[str, int] | None]:
    """Connect to each address. Returns the first that answers, ``None`` if none does."""
    answers, problems = [], []
    for host in addresses:
        try:
            socket.create_connection((host, federation.port), timeout=PATIENCE).close()
        except TimeoutError:
            problems.append(
                f"{host} does not answer within {PATIENCE:g} s; a firewall drops it: ask for outgoing TCP to "
                f"{federation.address}"
            )
        except ConnectionRefusedError:
            problems.append(f"{host} refuses port {federation.port}; the server is not up there, or a firewall rejects")
        except OSError as error:
            problems.append(f"{host} is not reached: {error.strerror or error}")
        else:
            answers.append((host, federation.port))
    if not answers:
        return fails("TCP", "; ".join(problems)), None
    if problems:
        return warns("TCP", f"{answers[0][0]} answers, but {'; '.join(problems)}"), answers[0]
    return ok("TCP", f"port {federation.port} answers"), answers[0]


def secure(federation: Federation, ca: Path, address: tuple[str, int]) -> Iterator[Check]:
    """Check the handshake at an address, and what is answered after it."""
    try:
        context = trusting(ca)
    except KeyFileError as error:
        yield fails("TLS", str(error))
        return
    try:
        plain = socket.create_connection(address, timeout=PATIENCE)
    except OSError as error:
        yield fails("TLS", f"{address[0]} does not answer any more: {error.strerror or error}; try again")
        return
    with plain:
        try:
            connection = context.wrap_socket(plain, server_hostname=federation.host)
        except OSError as error:
            shown = presented(federation, address) if isinstance(error, ssl.SSLCertVerificationError) else None
            yield fails("TLS", explain(error, shown, federation))
            return
        with connection:
            yield _trusted(connection, federation)
            yield from _answered(connection, federation)


def _trusted(connection: ssl.SSLSocket, federation: Federation) -> Check:
    shown = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    expiry = validity(
        "TLS", shown, datetime.now(UTC), advice="the operator makes a new one: fedtrain provision rotate-server"
    )
    if expiry.status != "ok":
        return expiry
    return ok("TLS", f"{connection.version()}; certificate for {federation.host} by the pinned CA, {expiry.detail}")


def _answered(connection: ssl.SSLSocket, federation: Federation) -> Iterator[Check]:
    sent = datetime.now(UTC)
    try:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {federation.address}\r\nConnection: close\r\n\r\n".encode())
        with HTTPResponse(connection) as response:
            response.begin()
            received = datetime.now(UTC)
            status, date = response.status, response.getheader("Date")
    except (OSError, HTTPException) as error:
        yield fails("health", f"the server does not answer /health: {error or type(error).__name__}; is it overloaded?")
        return
    yield health(status)
    yield compare_clocks(date, sent, received)


def health(status: int) -> Check:
    """Judge the status of the answer to ``/health``."""
    if status == HTTPStatus.OK:
        return ok("health", "the server says that it is well")
    if status in _BEHIND_GATEWAY:
        return fails(
            "health", f"the gateway answers {status}: Flower's SuperLink behind it is not up; see logs/ on the server"
        )
    return fails("health", f"the server answers /health with status {status}; is it fedtrain's?")
