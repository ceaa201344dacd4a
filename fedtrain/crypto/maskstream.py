"""Masks that cancel in a sum: a keystream added to a vector, in a few buffers of memory whatever its length.

AES-256 in counter mode (NIST SP 800-38A, section 6.5) under a key that makes one mask and no other. Without
the seed the masked vector cannot be distinguished from uniformly random words.
"""

from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from fedtrain.crypto.derivation import derive

# Words made at once: keystream, zeros and the part of the vector that they are added to stay in a core's own cache.
_CHUNK = 1 << 16
_ZEROS = memoryview(bytes(4 * _CHUNK))


def apply_mask(vector: NDArray[np.uint32], *seeds: bytes, sign: Literal[1, -1]) -> None:
    """Add the mask of each seed to a vector, or take it off again, modulo 2^32 and in place.

    A mask is the keystream as little-endian words.

    Args:
        vector: uint32, shape (length,), contiguous; changed.
        seeds: each at least 16 secret bytes that are used for one mask.
        sign: 1 adds, -1 subtracts.
    """
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
