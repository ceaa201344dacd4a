"""A certificate authority is renewed in two steps, between which nodes trust both.

At first the operator makes the next authority, and directions name it beside the present one, which still signs the
server's certificate. When the nodes have followed, the next takes its place. The operator's key signs both steps, so
that no site has to be visited.
"""

from pathlib import Path

from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.errors import SiteError
from fedtrain.files import sync_folder, write_atomic
from fedtrain.provision.certificates import Pair

_KEY, _CERTIFICATE = "ca.key", "ca.pem"
_NEXT_KEY, _NEXT_CERTIFICATE = "ca.new.key", "ca.new.pem"


def present_authority(folder: Path) -> Pair:
    """Return the authority that signs the server's certificates.

    Raises:
        KeyFileError: its key cannot be used.
        SiteError: its certificate cannot be read, or the next one was on the way to its place.
    """
    if (folder / _NEXT_CERTIFICATE).exists() and not (folder / _NEXT_KEY).exists():
        raise SiteError(
            f"the renewal of the CA in {folder} was interrupted: go on with fedtrain provision renew-ca "
            f"{folder} --finish"
        )
    return Pair(certificate=present_certificate(folder), key=read_secret(folder / _KEY))


def present_certificate(folder: Path) -> bytes:
    """Return the certificate of the authority that signs the server's certificates, PEM.

    Raises:
        SiteError: it cannot be read.
    """
    path = folder / _CERTIFICATE
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror or error}") from error


def next_certificate(folder: Path) -> bytes | None:
    """Return the certificate of the next authority, PEM; ``None`` where there is none."""
    path = folder / _NEXT_CERTIFICATE
    return path.read_bytes() if path.exists() else None


def stage(folder: Path, authority: Pair) -> None:
    """Write the next authority, durably; nothing is signed by it yet.

    Raises:
        KeyFileError, StorageError: it cannot be written.
    """
    (folder / _NEXT_KEY).unlink(missing_ok=True)  # of a command that was interrupted before the certificate
    read_or_create_secret(folder / _NEXT_KEY, lambda: authority.key)
    write_atomic(folder / _NEXT_CERTIFICATE, authority.certificate)


def promote(folder: Path) -> None:
    """Put the next authority in the place of the present one, if there is one.

    It can be interrupted at any place, and begun again.
    """
    certificate, key = folder / _NEXT_CERTIFICATE, folder / _NEXT_KEY
    if not certificate.exists():
        return
    if key.exists():
        key.replace(folder / _KEY)
        sync_folder(folder)
    certificate.replace(folder / _CERTIFICATE)
    sync_folder(folder)
