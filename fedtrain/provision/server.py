"""The server's folder, as the operator makes it and gives it other keys."""

from fedtrain.crypto import Identity
from fedtrain.crypto.secrets import read_or_create_secret
from fedtrain.errors import KeyFileError, SiteError, StorageError
from fedtrain.files import sync_folder, write_atomic
from fedtrain.machines import ServerFolder
from fedtrain.provision.certificates import Pair, hosts_of
from fedtrain.trust import Membership

# Nothing is the server's identity before a membership names it.
_NEXT = "identity.new.pem"


def make_folder(server: ServerFolder, ca: bytes) -> None:
    """Make the folder with what every machine pins, or add that to what is there.

    Args:
        server: the folder.
        ca: certificate of the CA, PEM.

    Raises:
        StorageError: it cannot be made or written.
    """
    try:
        server.path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {server.path}: {error.strerror or error}") from error
    write_atomic(server.ca, ca)
    server.federation.write(server.path)


def former_hosts(server: ServerFolder, *, lost: bool) -> tuple[str, ...]:
    """Return what the server's certificate has been valid for.

    Args:
        server: the folder, which may have been carried away.
        lost: whether another server takes its place, so that no certificate need be there.

    Raises:
        KeyFileError: the certificate is garbled.
        SiteError: there is none, or it cannot be read.
    """
    try:
        return hosts_of(server.certificate.read_bytes())
    except FileNotFoundError as error:
        if lost:
            return ()
        raise SiteError(
            f"there is no {server.certificate}, which says what names the server has: if the folder was moved to the "
            "server's machine, bring server.crt back first; if that machine is lost, make another server with "
            "--identity, and --name for each further name"
        ) from error
    except OSError as error:
        raise SiteError(f"cannot read {server.certificate}: {error.strerror or error}") from error
    except KeyFileError as error:
        raise KeyFileError(
            f"{server.certificate}: {error}; bring the one on the server's machine back. If there is none, delete this "
            "one, and make another server with --identity, and --name for each further name"
        ) from error


def write_certificate(server: ServerFolder, pair: Pair) -> None:
    """Put a certificate and its key in place, durably.

    Raises:
        KeyFileError, StorageError: one of them cannot be written.
    """
    # In one file both would be replaced at once; nginx takes two, and refuses those that do not belong together.
    temporary = server.certificate_key.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    read_or_create_secret(temporary, lambda: pair.key)
    temporary.replace(server.certificate_key)
    write_atomic(server.certificate, pair.certificate)


def next_identity(server: ServerFolder) -> Identity:
    """Return the identity that is to be the server's when a membership names it; it is made where there is none.

    Raises:
        KeyFileError, StorageError: it cannot be read or written.
    """
    return Identity.load_or_create(server.path / _NEXT)


def take_over(server: ServerFolder, membership: Membership) -> None:
    """Put the server's next identity in place, if there is one that the membership names."""
    new = server.path / _NEXT
    if new.exists() and Identity.load(new).public == membership.roster.server:
        new.replace(server.identity)
        sync_folder(server.path)
