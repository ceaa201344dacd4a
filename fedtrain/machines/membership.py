"""The file of a signed membership."""

from pathlib import Path

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import ForgeryError, SiteError
from fedtrain.files import write_atomic
from fedtrain.machines.federation import Federation
from fedtrain.trust import Membership


def read_membership(path: Path, federation: Federation) -> tuple[Membership, SignedEnvelope]:
    """Return the membership in a file, and the envelope that it came in.

    Raises:
        SiteError: it cannot be read, or is of another federation, or was not signed by its operator.
    """
    try:
        envelope = SignedEnvelope.from_line(path.read_bytes())
        membership = Membership.verify(envelope, federation.operator)
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror or error}") from error
    except ForgeryError as error:
        raise SiteError(f"{path} cannot be used: {error}") from error
    if membership.federation != federation.id:
        raise SiteError(f"{path} is the membership of another federation, {membership.federation}")
    return membership, envelope


def write_membership(path: Path, envelope: SignedEnvelope) -> None:
    """Write a signed membership, durably.

    Raises:
        StorageError: it cannot be written; the one before is kept.
    """
    write_atomic(path, envelope.line())
