"""Whether this machine reaches the federation's server: name, port, TLS, answer, clock.

Where a handshake fails, it says in plain words why. A SuperNode signs the time of each request, and the SuperLink takes
it if it is less than 5 s ahead of its own clock and less than 305 s behind (Flower 1.41,
``flwr.superlink.routers.fleet.node_auth``).
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

from cryptography import x509

from fedtrain.errors import KeyFileError
from fedtrain.health.check import Check, fails, ok, warns
from fedtrain.health.keys import validity
from fedtrain.machines.federation import Federation
from fedtrain.report.numbers import printable

_BEHIND_GATEWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
TIMEOUT = 5.0  # seconds for each of: a connection, a handshake, an answer
# OpenSSL's x509_vfy.h; Python passes the number on as `verify_code`.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = {62, 64}
_OTHER_ISSUER = {7, 18, 19, 20, 21}
MOST_AHEAD = timedelta(seconds=5)
MOST_BEHIND = timedelta(seconds=305)
# What a clock that is kept by NTP stays far within.
_AHEAD = timedelta(seconds=2)
_BEHIND = timedelta(seconds=30)
_ADVICE = "set it, and keep it by NTP (for example: timedatectl set-ntp true)"


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
    found = proxy_address(host)
    return found.rpartition("@")[2] if found is not None and "@" in found else found


def proxy_address(host: str) -> str | None:
    """Return the same with its password: it is for connections, and not for people."""
    proxies = getproxies()
    found = proxies.get("https") or proxies.get("all")
    return found if found and not proxy_bypass(host) else None


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
            socket.create_connection((host, federation.port), timeout=TIMEOUT).close()
        except TimeoutError:
            problems.append(
                f"{host} does not answer within {TIMEOUT:g} s; a firewall drops it: ask for outgoing TCP to "
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
        plain = socket.create_connection(address, timeout=TIMEOUT)
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


def trusting(ca: Path) -> ssl.SSLContext:
    """Return a client's context that trusts one CA alone, and speaks TLS 1.3 alone.

    Raises:
        KeyFileError: the file cannot be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise KeyFileError(f"{ca} holds no certificate in PEM: {error}") from error
    except OSError as error:
        raise KeyFileError(f"cannot read the CA's certificate {ca}: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def presented(federation: Federation, address: tuple[str, int]) -> x509.Certificate | None:
    """Return the certificate that is shown at an address, trusted or not; ``None`` where no handshake succeeds."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection(address, timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=federation.host) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    return None


def explain(error: OSError, shown: x509.Certificate | None, federation: Federation) -> str:
    """Return why a handshake failed, and what to do.

    Args:
        error: what the handshake raised.
        shown: the certificate that the other side shows.
        federation: whose server it should be.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error, shown, federation)
    if isinstance(error, TimeoutError):
        return f"the handshake took more than {TIMEOUT:g} s; a firewall or proxy on the way may hold TLS back"
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    if reason in {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"}:
        return (
            "the other side does not speak TLS 1.3, as the federation's server does: another server, or a proxy that "
            "opens TLS, answers; let the address pass it unopened"
        )
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return "what answers does not speak TLS; check the port of the address"
    return f"the other side broke the handshake off ({error}); a firewall or proxy on the way may do that"


def _untrusted(error: ssl.SSLCertVerificationError, shown: x509.Certificate | None, federation: Federation) -> str:
    clock = f"this machine's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if error.verify_code == _EXPIRED:
        until = "" if shown is None else f" (the server's on {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC)"
        return (
            f"expired: the certificate of the server or of the CA{until}; {clock}. If that is right, the operator "
            "makes a new one: fedtrain provision rotate-server"
        )
    if error.verify_code == _NOT_YET_VALID:
        since = "" if shown is None else f", but from {shown.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
        return (
            f"the server's certificate is not yet valid{since}; {clock}. Set the clock of this machine, or the server's"
        )
    if error.verify_code in _OTHER_NAME:
        return (
            f"wrong name: the certificate of the server is not for {federation.host}; the operator adds the name: "
            "fedtrain provision rotate-server"
        )
    if error.verify_code in _OTHER_ISSUER:
        issuer = "" if shown is None else f" (it is by {printable(shown.issuer.rfc4514_string())})"
        return (
            f"wrong CA: the certificate that is shown was not issued by the CA in ca.pem{issuer}. Another server, or a "
            "proxy that opens TLS, answers, or the operator has renewed the CA; do not trust it, and do not replace "
            "ca.pem by what it shows: a new CA comes in directions that the operator signed"
        )
    return f"the certificate of the server cannot be trusted: {error.verify_message}"


def compare_clocks(date: str | None, sent: datetime, received: datetime) -> Check:
    """Judge this machine's clock by an answer of the server.

    Args:
        date: the answer's header ``Date`` (RFC 9110, section 6.6.1), which is cut to whole seconds.
        sent: when the request left, by this clock.
        received: when the answer came, by this clock.
    """
    theirs = _parsed(date)
    if theirs is None:
        return warns("clock", "the server's answer tells no time, so this machine's clock was not compared with its")
    ahead = sent + (received - sent) / 2 - (theirs + timedelta(seconds=0.5))
    seconds = abs(ahead.total_seconds())
    if ahead >= timedelta(0):
        detail, tolerated, usual = f"{seconds:.1f} s ahead of the server's", MOST_AHEAD, _AHEAD
    else:
        detail, tolerated, usual = f"{seconds:.1f} s behind the server's", MOST_BEHIND, _BEHIND
    detail = f"this machine's clock is {detail}"
    if seconds >= tolerated.total_seconds():
        return fails("clock", f"{detail}, and the server takes less than {tolerated.seconds} s; {_ADVICE}")
    if seconds >= usual.total_seconds():
        return warns("clock", f"{detail}; the server takes less than {tolerated.seconds} s; {_ADVICE}")
    return ok("clock", f"{detail}; the server takes less than {tolerated.seconds} s")


def _parsed(date: str | None) -> datetime | None:
    try:
        time = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
