"""Bits that nobody can predict, fast.

AES-256 in counter mode (NIST SP 800-38A, section 6.5) under a key from the operating system that leaves this object
never. Without a break of AES the stream is indistinguishable from random bits, up to the usual bound of 2^64
blocks. A process keys its stream at its first use, and a forked child forgets the key, so that no two processes share a
stream. A copy of the whole machine (a snapshot that is resumed twice) does repeat it.
"""

import os
from weakref import WeakSet

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor

_WORD = 8
_LOWER_53 = (1 << 53) - 1


class Keystream:
    """A stream of random words."""

    def __init__(self) -> None:
        self._cipher: CipherContext | None = None
        _STREAMS.add(self)

    def words(self, count: int) -> Tensor:
        """Return independent uniform integers in [0, 2^53), int64 of shape (count,)."""
        if self._cipher is None:
            self._cipher = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
        if count == 0:
            return torch.zeros(0, dtype=torch.int64)
        stream = bytearray(count * _WORD)
        self._cipher.update_into(bytes(len(stream)), stream)
        return torch.frombuffer(stream, dtype=torch.int64).bitwise_and_(_LOWER_53)

    def forget(self) -> None:
        """Drop the key: the next word comes from a new one."""
        self._cipher = None


_STREAMS: WeakSet[Keystream] = WeakSet()


def _forget_all() -> None:
    for stream in _STREAMS:
        stream.forget()


os.register_at_fork(after_in_child=_forget_all)
