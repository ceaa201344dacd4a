"""Key agreement of two sides that know each other's public keys: X25519 (RFC 7748)."""

from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedtrain.crypto.derivation import derive
from fedtrain.errors import TransportError

PUBLIC_BYTES = 32


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
    """An X25519 key pair. What it prints as shows nothing of the private half."""

    def __init__(self, private: bytes) -> None:
        """Take the 32 bytes of a private key."""
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

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
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise TransportError(f"the key {public.hex()} cannot be used for a key agreement: {error}") from error
        return derive(secret, purpose, *context, length=length)
