"""Identities: an Ed25519 key pair (RFC 8032) on a machine's own disk, and its public half."""

import base64
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fedtrain.crypto.secrets import read_or_create_secret, read_secret
from fedtrain.errors import KeyFileError

_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class PublicIdentity:
    """An Ed25519 public key.

    Attributes:
        key: its 32 bytes.

    Raises:
        ValueError: the key has another length.
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != _KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {_KEY_BYTES} bytes, and this has {len(self.key)}")

    @cached_property
    def key_id(self) -> str:
        """The hex SHA-256 of the key."""
        return sha256(self.key).hexdigest()

    def encode(self) -> str:
        """Return the key in base64."""
        return base64.b64encode(self.key).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the key that ``encode`` wrote.

        Raises:
            ValueError: the text is not the base64 of 32 bytes.
        """
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(f"not a public key in base64: {error}") from error
        public = cls(key=key)
        if public.encode() != text:
            raise ValueError("not a public key in base64: it ends in bits that have no meaning")
        return public

    def signed(self, data: bytes, signature: bytes) -> bool:
        """Return whether the holder of the private key signed the data."""
        try:
            self._verifier.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _verifier(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.key)


class Identity:
    """An Ed25519 key pair. What it prints as shows the id of the public key only."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicIdentity(key=private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def __repr__(self) -> str:
        return f"Identity(key_id={self.public.key_id!r})"

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature. The same data gives the same signature."""
        return self._private.sign(data)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the operating system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file: an Ed25519 key in unencrypted PKCS #8 PEM.

        Raises:
            KeyFileError: it is missing, holds something else, or can be used by others than its owner.
        """
        return cls(_private_key(path, read_secret(path)))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read a key file, which is made first if there is none. Processes that make it at once get the same key.

        Raises:
            KeyFileError: as `load`.
            StorageError: it cannot be written.
        """
        return cls(_private_key(path, read_or_create_secret(path, _new_key)))


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private_key(path: Path, data: bytes) -> Ed25519PrivateKey:
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # a TypeError if it is encrypted
        raise KeyFileError(f"the key file {path} holds no private key in unencrypted PEM: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"the key file {path} holds another kind of key; it must be an Ed25519 key")
    return private
