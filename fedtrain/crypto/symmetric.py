"""What is done with a secret: derive keys, mask a vector, encrypt a message, commit to a digest.

Keys are independent of one another, by HKDF-SHA256 (RFC 5869).

Masks cancel in a sum: a keystream is added to a vector, in a few buffers of memory whatever its length. It is AES-256
in counter mode (NIST SP 800-38A, section 6.5) under a key that makes one mask and no other. Without the seed the masked
vector cannot be distinguished from uniformly random words.

A message is encrypted once under a key, by AES-256-GCM (NIST SP 800-38D). A key made for one message needs no nonce,
and none can be used twice. A holder of the key can also make other ciphertexts under it, so a body for several
recipients is signed as well.

A commitment stands for a digest in public and shows nothing of it without its nonce.
"""

import hmac
import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedtrain.crypto.canonical import canonical
from fedtrain.errors import TransportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Words made at once: keystream, zeros and the part of the vector that they are added to stay in a core's own cache.
_CHUNK = 1 << 16
_ZEROS = memoryview(bytes(4 * _CHUNK))
_BLOCK = 1 << 20  # bytes that are encrypted at once
_SLACK = 15  # bytes beyond a plaintext that the library wants to have
KEY_BYTES = 32
TAG_BYTES = 16
_NONCE = bytes(12)
_encoded = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_CHANGED = "it was changed, or encrypted for another occasion or under another key"


def derive(secret: bytes, purpose: str, *context: str | int, length: int = 32) -> bytes:
    """Return bytes that look random without the secret, even to someone who has those of other purposes.

    Args:
        secret: what cannot be guessed: at least 16 bytes of a key, or a shared secret of a key agreement.
        purpose: what the bytes are for.
        context: what else they are bound to.
        length: how many bytes.
    """
    # Of texts and whole numbers in ASCII the standard library's encoder makes canonical JSON, five times as fast.
    text = _encoded(["fedtrain", purpose, *context])
    info = text.encode() if text.isascii() else canonical(["fedtrain", purpose, *context])
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def apply_mask(vector: "NDArray[np.uint32]", *seeds: bytes, sign: Literal[1, -1]) -> None:
    """Add the mask of each seed to a vector, or take it off again, modulo 2^32 and in place.

    A mask is the keystream as little-endian words.

    Args:
        vector: uint32, shape (length,), contiguous; changed.
        seeds: each at least 16 secret bytes that are used for one mask.
        sign: 1 adds, -1 subtracts.
    """
    import numpy as np  # noqa: PLC0415 - commands that only read keys do without

    combine = np.add if sign == 1 else np.subtract
    streams = [Cipher(AES256(derive(seed, "mask")), CTR(bytes(16))).encryptor() for seed in seeds]
    buffer = bytearray(4 * _CHUNK)
    words = np.frombuffer(buffer, dtype="<u4")
    # All masks of one part before the next part, so that a long vector passes through memory once.
    for start in range(0, len(vector), _CHUNK):
        part = vector[start : start + _CHUNK]
        zeros, mask = _ZEROS[: 4 * len(part)], words[: len(part)]
        for stream in streams:
            stream.update_into(zeros, buffer)
            combine(part, mask, out=part)


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
        raise TransportError(_CHANGED) from None


def encrypt_parts(key: bytes, parts: Iterable[bytes | memoryview], context: bytes) -> bytes:
    """Return what `encrypt_once` returns for all parts together, which are never together in memory.

    Args:
        key: 32 bytes that encrypt this message and no other.
        parts: of the message, of bytes.
        context: what the message is bound to.
    """
    encryptor = Cipher(AES256(key), GCM(_NONCE)).encryptor()
    encryptor.authenticate_additional_data(context)
    file = BytesIO()
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            file.write(encryptor.update(part[start : start + _BLOCK]))
    file.write(encryptor.finalize())
    file.write(encryptor.tag)
    return file.getvalue()


def decrypt_parts(
    key: bytes, parts: Iterable[bytes | memoryview], length: int, context: bytes, *, check: Callable[[], None]
) -> memoryview:
    """Return the plaintext of a ciphertext that comes in parts, each of which is looked at once.

    Nobody sees a part of the plaintext before the tag of the whole was found right.

    Args:
        key: 32 bytes.
        parts: of the ciphertext, of bytes that nobody else can change.
        length: of the ciphertext.
        context: what the message is bound to.
        check: called when all parts were looked at, before the tag is compared. What it raises is raised here.

    Raises:
        TransportError: the ciphertext was not made with this key and context, or has another length.
    """
    body = max(length - TAG_BYTES, 0)
    decryptor = Cipher(AES256(key), GCM(_NONCE)).decryptor()
    decryptor.authenticate_additional_data(context)
    plaintext, tag, done = memoryview(bytearray(body + _SLACK)), b"", 0
    try:
        for part in parts:
            inside = part[: body - done]
            for start in range(0, len(inside), _BLOCK):
                done += decryptor.update_into(inside[start : start + _BLOCK], plaintext[done:])
            tag = (tag + bytes(part[len(inside) :]))[: TAG_BYTES + 1]
        check()
        if done != body or len(tag) != TAG_BYTES:
            raise InvalidTag  # noqa: TRY301 - all that is no ciphertext is refused in one way
        decryptor.finalize_with_tag(tag)
    except InvalidTag:
        del plaintext  # or it would be in the frames of the error
        raise TransportError(_CHANGED) from None
    except BaseException:
        del plaintext
        raise
    return plaintext[:body].toreadonly()


_UPDATE = b"fedtrain update commitment v1\n"
_COMMITMENT_NONCE = b"fedtrain commitment nonce v1\n"


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
    return hmac.digest(key, _COMMITMENT_NONCE + canonical(subject), "sha256")
