"""All checks of a server's folder, in the order in which one depends on the other."""

from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from fedtrain.errors import KeyFileError
from fedtrain.health import certificates
from fedtrain.health.check import Check, fails, warns
from fedtrain.health.gateway import gateway, nginx
from fedtrain.health.keys import closed, identity, membership, server_admitted
from fedtrain.health.network import resolve
from fedtrain.health.storage import free_space, writable
from fedtrain.health.superlink import database, loopback_only
from fedtrain.health.versions import installed
from fedtrain.machines.server import ServerFolder

_RENEW = "the operator makes a new one with fedtrain provision rotate-server"
_NEW_CA = "every machine needs a new ca.pem: the operator makes a federation anew"


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
        ca, own = certificates.read_certificate(server.ca), certificates.read_certificate(server.certificate)
    except KeyFileError as error:
        yield fails("certificate", f"{error}; copy the folder server/ from the operator again")
        return
    yield from certificate_checks(server, ca, own)
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


def certificate_checks(server: ServerFolder, ca: x509.Certificate, own: x509.Certificate) -> Iterator[Check]:
    """Check that a server's certificates hold now, and belong to one another, to its name and to its key."""
    now = datetime.now(UTC)
    yield certificates.validity("CA", ca, now, advice=_NEW_CA)
    yield certificates.validity("certificate", own, now, advice=_RENEW)
    yield certificates.issued(own, ca)
    yield certificates.covers(own, server.federation.host)
    yield certificates.opened_by(own, server.certificate_key)
