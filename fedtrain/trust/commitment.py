"""Commitments: public digests that show nothing of what they bind."""

import hmac
from hashlib import sha256

from fedtrain.crypto.canonical import canonical

_UPDATE = b"fedtrain update commitment v1\n"
_NONCE = b"fedtrain commitment nonce v1\n"


def commit(digest: str, nonce: bytes) -> str:
    """Return the hex SHA-256 that stands for a digest in public.

    A bare digest of an update confirms a guess: someone who guesses the records can train on them and compare.
    With a secret nonce of 32 bytes, only someone who has the nonce can.

    Args:
        digest: hex SHA-256 of what is committed to.
        nonce: 32 secret bytes.
    """
    return sha256(_UPDATE + nonce + bytes.fromhex(digest)).hexdigest()


def nonce_of(key: bytes, subject: list[object]) -> bytes:
    """Return the 32 bytes of nonce for a subject: the same for the same, and secret without the key.

    Args:
        key: a secret key of 32 bytes.
        subject: what identifies the occasion, as JSON can hold it.
    """
    return hmac.digest(key, _NONCE + canonical(subject), "sha256")
