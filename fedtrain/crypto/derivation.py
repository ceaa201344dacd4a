"""Independent keys from one secret: HKDF-SHA256 (RFC 5869)."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedtrain.crypto.canonical import canonical


def derive(secret: bytes, purpose: str, *context: str | int, length: int = 32) -> bytes:
    """Return bytes that look random without the secret, even to someone who has those of other purposes.

    Args:
        secret: what cannot be guessed: at least 16 bytes of a key, or a shared secret of a key agreement.
        purpose: what the bytes are for.
        context: what else they are bound to.
        length: how many bytes.
    """
    info = canonical(["fedtrain", purpose, *context])
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)
