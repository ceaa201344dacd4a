"""Where the randomness of private training comes from: a generator that repeats, or one that nobody can predict.

The seeded source is for simulations, where the noise protects nobody. The secure source is for deployment: a
cryptographic stream, and Gaussians that are hard to invert.

What the Gaussians defend against. Floating-point noise does not reach every number, and which results it reaches
depends on what it was added to (Mironov 2012, "On significance of the least significant bits for differential
privacy"). For Gaussians of one Box-Muller pair an attacker can search for the uniforms that explain a result, and rule
out values for which there are none (Jin et al. 2022; Holohan and Braghin 2021, "Secure random sampling in differential
privacy"). The latter's section 5.1 sums 2n Gaussians for each value; Opacus' secure mode takes 2n = 4. The search for
the 53-bit uniforms behind one value then costs about 2^(53 (2n - 1)) = 2^159 steps.

Here 69 Gaussians of as many pairs become 64 values, by orthonormal rows, so that the values are independent standard
Gaussians again. The rows are orthogonal to the kernel: the constant, and cosine and sine of the angle and of twice the
angle, over 69 points of a circle. A trigonometric polynomial of degree two has four zeros at most (Zygmund,
"Trigonometric series", chapter X), so any five columns of the kernel are independent. So each value, and each linear
combination of values of a block, has a part in at least six of the Gaussians.

A Gaussian is the exact product of a radius and a cosine or sine, which are rounded to single precision. Of radii some
2^24 values are about equally likely. So are those of cosines, but near 1 and -1, where numbers are coarse: one of 6,000
is 1 or -1. Most products are one of 2^48. An attacker who knows all 64 values has 64 equations for 69 Gaussians, and
searches five, in 2^240 steps. One who knows two blocks that share their pairs misses ten numbers, and finds two by a
radius and its angle, or one by either: 2^240 again. One who tries no cosines but 1 and -1 takes 2^125 steps for five
Gaussians, which one of 2^63 blocks has: 2^188 steps for each success. Whoever can keep 2^144 sums of three Gaussians
finds six of a sum in about as many steps. A value takes 69/64 Gaussians in the place of four.

Logarithm, root, cosine and sine are in single precision, unless a draw is in double precision. The products and their
sums are in double precision always: their terms of all sizes fill the numbers near zero, where sums in single precision
would stay on a grid, and show what they were added to. A value is off by some 1e-7, as by its own rounding.

What they do not give. This makes a known attack infeasible; it is no proof. The sum of gradients and its noise are
still floats, rounded after every operation, and the guarantee is that of the real-valued Gaussian, which floats
approximate. A uniform of 62 bits also ends each Gaussian at 9.3 standard deviations, beyond which the true one has a
probability of 1e-20. Timing is not hidden. A reader of this process's memory reads the records in it, too.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import isfinite, pi, prod
from typing import Literal, Protocol
from weakref import WeakSet

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray
from torch import Tensor

from fedtrain.seeding import derive_seed, seeded_generator

_WORD = 8
_ZEROS = memoryview(bytes(1 << 20))
_LOWER_53 = (1 << 53) - 1
_LOWER_31 = (1 << 31) - 1
_HALF_UNIT = 2.0**-31

# How many Gaussians become how many values.
_GAUSSIANS, _VALUES = 69, 64
# Pairs of blocks made at once: two megabytes of temporaries, whatever the size of the result.
_BLOCKS = 1 << 9
_CHUNK = 2 * _BLOCKS * _VALUES
# Values from which on several threads make them, each a chunk at least.
_MANY = 1 << 17


class WordStream(Protocol):
    """Gives random words, each anew."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return independent words of 64 uniform bits, uint64 of shape (count,)."""


class RandomSource(Protocol):
    """Draws the noise and the samples of private training. Each call draws anew.

    Attributes:
        name: ``seeded`` or ``secure``, as the report says it.
    """

    name: str

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return independent Gaussians of mean 0 and standard deviation ``std``.

        Raises:
            ValueError: ``std`` is negative or not finite.
        """

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask, bool of shape (count,) on the CPU, each entry true on its own with ``probability``.

        Raises:
            ValueError: ``probability`` is outside of [0, 1].
        """

    def streams(self, count: int) -> Sequence[WordStream]:
        """Return independent streams of words, one for each thread that should make ``count`` values of them.

        A stream is for one thread at a time. Streams are the same at each call, and go on.
        """


def open_source(kind: Literal["seeded", "secure"], seed: int) -> RandomSource:
    """Return the source that a configuration names. The secure one makes no use of the seed."""
    return SeededSource(seed) if kind == "seeded" else SecureSource()


class SeededSource:
    """Draws from torch's generators, by a seed: randomness that repeats.

    The noise, the samples and the words have a stream each, so that how many are drawn of one does not change another;
    the noise has one for each device. Anyone who knows the seed can subtract the noise.
    """

    name = "seeded"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._noise: dict[torch.device, torch.Generator] = {}
        self._sampling = seeded_generator(seed, "sampling")
        self._words = _SeededWords(seed)

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return Gaussians of the shape, drawn on the device in the precision of ``dtype``."""
        _check_std(std)
        if device not in self._noise:
            self._noise[device] = seeded_generator(self._seed, "noise", device=device)
        return torch.normal(0.0, std, tuple(shape), generator=self._noise[device], device=device, dtype=dtype)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask by comparing uniforms of 53 bits."""
        _check_probability(probability)
        return torch.rand(count, generator=self._sampling, dtype=torch.float64) < probability

    def streams(self, count: int) -> Sequence[WordStream]:
        """Return one stream whatever the count, so that values do not depend on the number of threads."""
        del count
        return [self._words]


class _SeededWords:
    """The words of numpy's Philox generator by a seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(derive_seed(seed, "words"))

    def words(self, count: int) -> NDArray[np.uint64]:
        return self._generator.random_raw(count)


class SecureSource:
    """Draws from keystreams of its own, on the CPU: one, and for large draws one more for each further thread."""

    name = "secure"

    def __init__(self) -> None:
        self._stream = Keystream()
        self._others: list[Keystream] = []

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return Gaussians of the shape, made on the CPU, then rounded to ``dtype``.

        As many threads as torch uses make them, each from a keystream of its own.
        """
        _check_std(std)
        values = torch.empty(prod(shape), dtype=dtype)
        chunks = torch.split(values, _CHUNK)
        streams = self._streams(len(values))
        if len(streams) == 1:
            _fill(chunks, self._stream, std)
        else:
            with ThreadPoolExecutor(len(streams)) as pool:
                parts = [chunks[number :: len(streams)] for number in range(len(streams))]
                list(pool.map(_fill, parts, streams, [std] * len(streams)))
        return values.reshape(tuple(shape)).to(device)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask by comparing integers of 53 bits.

        The probability is exact to 2^-53, and never above the one declared: more sampling would be less privacy.
        """
        _check_probability(probability)
        return self._stream.integers(count) < int(probability * 2**53)

    def streams(self, count: int) -> Sequence[WordStream]:
        """Return a keystream, or for many values one for each thread that torch uses."""
        return self._streams(count)

    def _streams(self, count: int) -> "list[Keystream]":
        threads = min(torch.get_num_threads(), -(-count // _CHUNK)) if count >= _MANY else 1
        while len(self._others) < threads - 1:
            self._others.append(Keystream())
        return [self._stream, *self._others][:threads]


def _fill(chunks: Sequence[Tensor], stream: "Keystream", std: float) -> None:
    for chunk in chunks:
        blocks = -(-len(chunk) // (2 * _VALUES))
        chunk.copy_(_blocks(stream, blocks, chunk.dtype).flatten()[: len(chunk)].mul_(std))


def _blocks(stream: "Keystream", count: int, dtype: torch.dtype) -> Tensor:
    """Return standard Gaussians, float64 of shape (64, 2 * count): a column is a block.

    By Box and Muller 1958. The two values of a pair are in different blocks: together they are a single Gaussian.
    """
    halves = stream.halves(3 * _GAUSSIANS * count).reshape(3, _GAUSSIANS, count)
    halves[:2].bitwise_and_(_LOWER_31)
    high, low, turn = halves.to(torch.float64 if dtype is torch.float64 else torch.float32)
    # In (0, 1], so that the logarithm is finite, and as fine near 0 as 62 bits are.
    uniform = high.mul_(_HALF_UNIT).add_(low.add_(0.5), alpha=_HALF_UNIT**2)
    radius = uniform.log_().mul_(-2.0).sqrt_().double()
    angle = turn.mul_(pi * _HALF_UNIT)
    gaussians = radius.new_empty(_GAUSSIANS, 2, count)
    torch.mul(radius, angle.cos().double(), out=gaussians[:, 0])
    torch.mul(radius, angle.sin_().double(), out=gaussians[:, 1])
    taken, given = _mixing()
    gaussians = gaussians.flatten(1)
    return torch.addmm(gaussians[_GAUSSIANS - _VALUES :], given, taken @ gaussians)


@cache
def _mixing() -> tuple[Tensor, Tensor]:
    """Return matrices T and G: to ``x[5:] + G @ (T @ x)`` belong orthonormal rows, which have the kernel.

    The last rows of the block reflector that takes the kernel to the first five axes (Schreiber and Parlett 1988,
    "Block reflectors: theory and computation").
    """
    extra = _GAUSSIANS - _VALUES
    turns = torch.arange(_GAUSSIANS, dtype=torch.float64) * (2 * pi / _GAUSSIANS)
    waves = [wave for times in range(1, extra // 2 + 1) for wave in ((times * turns).cos(), (times * turns).sin())]
    kernel = torch.stack([torch.full_like(turns, 0.5**0.5), *waves], dim=1) * (2 / _GAUSSIANS) ** 0.5
    left, _, right = torch.linalg.svd(kernel[:extra])
    reflected = kernel.clone()
    reflected[:extra] += left @ right
    scale = 2 * torch.linalg.inv(reflected.T @ reflected)
    return reflected.T.contiguous(), -kernel[extra:] @ scale


class Keystream:
    """A stream of random words: bits that nobody can predict, fast.

    AES-256 in counter mode (NIST SP 800-38A, section 6.5) under a key from the operating system that leaves this object
    never. Without a break of AES the stream is indistinguishable from random bits, up to the usual bound of 2^64
    blocks. A process keys its stream at its first use, and a forked child forgets the key, so that no two processes
    share a stream. A copy of the whole machine (a snapshot that is resumed twice) does repeat it.
    """

    def __init__(self) -> None:
        self._cipher: CipherContext | None = None
        _STREAMS.add(self)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return independent words of 64 uniform bits, uint64 of shape (count,)."""
        if self._cipher is None:
            self._cipher = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
        words = np.empty(count, dtype=np.uint64)
        zeros = _ZEROS[: words.nbytes] if words.nbytes <= len(_ZEROS) else bytes(words.nbytes)
        self._cipher.update_into(zeros, words.view(np.uint8).data)
        return words

    def integers(self, count: int) -> Tensor:
        """Return independent uniform integers in [0, 2^53), int64 of shape (count,): the lower bits of a word each."""
        return torch.from_numpy(self.words(count).view(np.int64)).bitwise_and_(_LOWER_53)

    def halves(self, count: int) -> Tensor:
        """Return independent uniform integers in [-2^31, 2^31), int32 of shape (count,): both halves of words."""
        return torch.from_numpy(self.words(-(-count // 2)).view(np.int32)[:count])

    def forget(self) -> None:
        """Drop the key: the next word comes from a new one."""
        self._cipher = None


_STREAMS: WeakSet[Keystream] = WeakSet()


def _forget_all() -> None:
    for stream in _STREAMS:
        stream.forget()


os.register_at_fork(after_in_child=_forget_all)


def _check_std(std: float) -> None:
    """Raise ``ValueError`` for a standard deviation that is negative or not finite."""
    if not (isfinite(std) and std >= 0):
        raise ValueError(f"a standard deviation of {std} is not allowed: it is finite and not negative")


def _check_probability(probability: float) -> None:
    """Raise ``ValueError`` for a probability outside of [0, 1]."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability of {probability} is not allowed: it is in [0, 1]")
