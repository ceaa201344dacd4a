"""Encrypt once under a key: AES-256-GCM (NIST SP 800-38D).

A key made for one message needs no nonce, and none can be used twice. A holder of the key can also make other
ciphertexts under it, so a body for several recipients is signed as well.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedtrain.errors import TransportError

KEY_BYTES = 32
TAG_BYTES = 16

_NONCE = bytes(12)


def encrypt_once(key: bytes, plaintext: bytes | memoryview, context: bytes) -> bytes:
    """Return the ciphertext, ``TAG_BYTES`` longer than the plaintext.

    Args:
        key: 32 bytes that encrypt this message and no other.
        plaintext: the message.
        context: what the message is bound to; the receiver has to know it.
    """
    return AESGCM(key).encrypt(_NONCE, plaintext, context)


def decrypt_once(key: bytes, ciphertext: bytes | memoryview, context: bytes) -> bytes:
    """Return the plaintext.

    Raises:
        TransportError: the ciphertext was not made with this key and context.
    """
    try:
        return AESGCM(key).decrypt(_NONCE, ciphertext, context)
    except InvalidTag:
        raise TransportError("it was changed, or encrypted for another occasion or under another key") from None
