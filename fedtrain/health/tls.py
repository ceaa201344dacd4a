"""A handshake with the federation's server, and in plain words why it fails."""

import contextlib
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fedtrain.errors import KeyFileError
from fedtrain.machines.federation import Federation

PATIENCE = 5.0  # seconds for each of: a connection, a handshake, an answer

# OpenSSL's x509_vfy.h; Python passes the number on as `verify_code`.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = {62, 64}
_OTHER_ISSUER = {7, 18, 19, 20, 21}


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
        socket.create_connection(address, timeout=PATIENCE) as plain,
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
        return f"the handshake took more than {PATIENCE:g} s; a firewall or proxy on the way may hold TLS back"
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
        issuer = "" if shown is None else f" (it is by {shown.issuer.rfc4514_string()})"
        return (
            f"wrong CA: the certificate that is shown was not issued by the CA in ca.pem{issuer}. Another server, or a "
            "proxy that opens TLS, answers; do not trust it, and do not replace ca.pem by what it shows"
        )
    return f"the certificate of the server cannot be trusted: {error.verify_message}"
