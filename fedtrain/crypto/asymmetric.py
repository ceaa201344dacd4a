"""What two that know each other's public keys do: agree on a secret, and encrypt for the holder of a key.

Key agreement is X25519 (RFC 7748). Encryption holds now and against a quantum computer later: HPKE (RFC 9180, base
mode, single shot) with the hybrid of ML-KEM-768 and X25519, HKDF-SHA256 and AES-256-GCM, which holds as long as either
of the two does.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fedtrain.crypto.symmetric import derive
from fedtrain.errors import TransportError

AGREEMENT_KEY_BYTES = 32
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_BYTES = 1184
SEALING_KEY_BYTES = _MLKEM_BYTES + 32
# Encapsulated key and tag.
OVERHEAD_BYTES = 1088 + 32 + 16
# Other sides whose agreements a key pair keeps.
_KEPT = 256


def checked_public(public: bytes) -> X25519PublicKey:
    """Return a public key that leads to secrets which others cannot know.

    Args:
        public: the key, 32 bytes.

    Raises:
        ValueError: it has another length, or is a point of low order (RFC 7748, section 6.1), with which every key
            agreement gives zeros.
    """
    key = X25519PublicKey.from_public_bytes(public)
    try:
        # With any private key: all of them are multiples of 8, and so of each low order.
        X25519PrivateKey.generate().exchange(key)
    except ValueError:
        raise ValueError(
            "an X25519 key of low order cannot be used: anyone knows the secrets that it leads to"
        ) from None
    return key


class AgreementKey:
    """An X25519 key pair. What it prints as shows nothing of the private half.

    It keeps what was agreed with the last 256 other sides as long as the object lives: two keys agree on the same
    again, and to agree is most of what a secret takes.
    """

    def __init__(self, private: bytes) -> None:
        """Take the 32 bytes of a private key."""
        self._private = key = X25519PrivateKey.from_private_bytes(private)
        self.public = key.public_key().public_bytes_raw()

        @lru_cache(maxsize=_KEPT)
        def agreed(public: bytes) -> bytes:
            return key.exchange(X25519PublicKey.from_public_bytes(public))

        self._agreed = agreed

    def __repr__(self) -> str:
        return f"AgreementKey(public={self.public.hex()!r})"

    @classmethod
    def derived(cls, secret: bytes, purpose: str) -> Self:
        """Return the key pair that a secret stands for."""
        return cls(derive(secret, purpose))

    def shared(self, public: bytes, purpose: str, *context: str | int, length: int = 32) -> bytes:
        """Return the secret that the holder of the other key derives, too, for the same purpose and context.

        Args:
            public: the other side's public key, 32 bytes, known to be theirs.
            purpose: what the secret is for.
            context: what else it is bound to.
            length: how many bytes.

        Raises:
            TransportError: the public key is one that leads to a secret that anyone knows (RFC 7748, section 6.1).
        """
        try:
            secret = self._agreed(public)
        except ValueError as error:
            raise TransportError(f"the key {public.hex()} cannot be used for a key agreement: {error}") from error
        return derive(secret, purpose, *context, length=length)


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
        if len(self.key) != SEALING_KEY_BYTES:
            raise ValueError(f"a sealing key has {SEALING_KEY_BYTES} bytes, and this has {len(self.key)}")
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
