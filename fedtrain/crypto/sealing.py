"""Encrypt for the holder of a key, now and against a quantum computer later.

HPKE (RFC 9180, base mode, single shot) with the hybrid of ML-KEM-768 and X25519, HKDF-SHA256 and AES-256-GCM: it holds
as long as either of the two does.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fedtrain.crypto.agreement import checked_public
from fedtrain.crypto.derivation import derive
from fedtrain.errors import TransportError

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_BYTES = 1184
PUBLIC_BYTES = _MLKEM_BYTES + 32
# Encapsulated key and tag.
OVERHEAD_BYTES = 1088 + 32 + 16


@dataclass(frozen=True, kw_only=True)
class PublicSealingKey:
    """The key that anyone can seal to.

    Attributes:
        key: 1216 bytes: ML-KEM-768, then X25519.

    Raises:
        ValueError: the key has another length, or is no such key.
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != PUBLIC_BYTES:
            raise ValueError(f"a sealing key has {PUBLIC_BYTES} bytes, and this has {len(self.key)}")
        _ = self._public

    @property
    def digest(self) -> str:
        """The hex SHA-256 of the key."""
        return sha256(self.key).hexdigest()

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Return what the holder of the private key alone can open; ``OVERHEAD_BYTES`` longer.

        Args:
            plaintext: the message.
            context: what the message is bound to; the receiver has to know it.
        """
        return _SUITE.encrypt(plaintext, self._public, info=context)

    @cached_property
    def _public(self) -> MLKEM768X25519PublicKey:
        # Refuses a point of low order here, and not only when something is sealed to it.
        x25519 = checked_public(self.key[_MLKEM_BYTES:])
        return MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(self.key[:_MLKEM_BYTES]), x25519)


class SealingKey:
    """A key pair. What it prints as shows the digest of the public key only."""

    def __init__(self, secret: bytes) -> None:
        """Make the key pair that a secret of 32 random bytes stands for."""
        mlkem = MLKEM768PrivateKey.from_seed_bytes(derive(secret, "sealing, ML-KEM-768", length=64))
        x25519 = X25519PrivateKey.from_private_bytes(derive(secret, "sealing, X25519"))
        self._private = MLKEM768X25519PrivateKey(mlkem, x25519)
        raw = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        self.public = PublicSealingKey(key=raw)

    def __repr__(self) -> str:
        return f"SealingKey(digest={self.public.digest!r})"

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed to this key.

        Raises:
            TransportError: it was not sealed to this key and context, or it was changed.
        """
        try:
            return _SUITE.decrypt(sealed, self._private, info=context)
        except (InvalidTag, ValueError):
            raise TransportError("it was changed, or sealed for another occasion or to another key") from None
