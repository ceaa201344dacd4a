"""Integer noise: Skellam and discrete Gaussian values, exact to a distance of 2^-105, for distributed privacy.

Clients that add noise under secure aggregation add integers to integers, so that the sum is exactly the sum of the
updates plus the sum of the noise:

- Skellam (Agarwal, Kairouz, Liu 2021, "The Skellam mechanism for differentially private federated learning"): the
  difference of two Poisson variables of mean mu / 2 each. Its variance is mu, and the sum of n shares of variance
  mu / n is Skellam of variance mu.
- the discrete Gaussian (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy"): the integer k
  has a probability proportional to exp(-k^2 / (2 sigma^2)). Sums of it are not of the same family (Kairouz, Liu,
  Steinke 2021, "The distributed discrete Gaussian mechanism for federated learning with secure aggregation").

What integers give that floats do not: every value up to `IntegerNoise.most` is drawn, with its probability, and adding
rounds nothing. So there are no gaps from which the noise-free value could be read (Mironov 2012, "On significance of
the least significant bits for differential privacy"), and no argument about how hard they are to find. What is left is
one number, `IntegerNoise.distance`, which the accounting adds to delta.

What they do not give: the time of a draw is not hidden. Values in the tail, one of a hundred, take a longer search, and
the processor's caches hold what was looked up last. Somebody who measures single draws on the same machine learns
something of the noise.

Example::

    noise = IntegerNoise(kind="skellam", variance=250.0)
    values = draw(noise, len(vector), open_source("secure", seed=0))
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from fedtrain.privacy.integer_tables import BITS, Kind, reach, thresholds

if TYPE_CHECKING:
    from fedtrain.privacy.noise import RandomSource, WordStream

# The variances for which the bounds are proved and tables are of a sensible size.
_SMALLEST: dict[Kind, float] = {"skellam": 2.0**-10, "discrete-gaussian": 4.0}
_LARGEST = 2.0**34
# Values made at once: their temporaries stay in a core's cache.
_CHUNK = 1 << 14
# Buckets for a grid step of the standard deviation, and the fewest.
_BUCKETS, _FEWEST_BITS = 32, 12
# Bits of a threshold beside a magnitude in a word of a shortcut: the most, and the fewest.
_MOST_BESIDE, _FEWEST_BESIDE = 32, 12
# Tables that are kept: 16 bytes for a magnitude and 8 for a bucket, 30 MB for a deviation of 2^16.
_KEPT = 8


@dataclass(frozen=True, kw_only=True)
class IntegerNoise:
    """A distribution of integer noise with mean 0, symmetric.

    Attributes:
        kind: the family.
        variance: in grid steps squared. For Skellam mu, from 2^-10 up. For the discrete Gaussian the parameter sigma^2,
            from 4 up; there the true variance is smaller than the parameter by less than 2e-32 of it.

    Raises:
        ValueError: another kind, or the variance is outside of what is allowed.
    """

    kind: Kind
    variance: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"integer noise of kind {self.kind!r} is unknown: it is one of {', '.join(get_args(Kind))}"
            )
        smallest = _SMALLEST[self.kind]
        if not (isfinite(self.variance) and smallest <= self.variance <= _LARGEST):
            raise ValueError(
                f"{self.kind} noise with a variance of {self.variance} grid steps squared is not allowed: "
                f"from {smallest:g} to {_LARGEST:g} there are tables, so choose another grid step"
            )

    @property
    def most(self) -> int:
        """The largest magnitude that is ever drawn: about 13.4 standard deviations, and 60 steps for the smallest."""
        return reach(self.kind, float(self.variance))

    @property
    def distance(self) -> float:
        """A bound on the total variation distance of one drawn value from the distribution: below 2^-105.

        That of n values together is at most n times as much. Where the true noise gives (epsilon, delta), the drawn
        noise gives (epsilon, delta + (1 + e^epsilon) n distance). ``integer_tables`` has the proof.
        """
        return (self.most + 1) * 2.0 ** (1 - BITS)


def draw(noise: IntegerNoise, count: int, source: "RandomSource") -> NDArray[np.int32]:
    """Return independent values of the noise.

    Args:
        noise: the distribution.
        count: how many values.
        source: gives the random words; a seeded one repeats the values.

    Returns:
        int32, shape (count,), each of magnitude at most ``noise.most``.

    Raises:
        ValueError: the count is negative.
    """
    if count < 0:
        raise ValueError(f"{count} values cannot be drawn")
    table = _table(noise.kind, float(noise.variance))
    values = np.empty(count, dtype=np.int32)
    chunks = [values[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    streams = source.streams(count)
    if len(streams) == 1:
        _fill(chunks, table, streams[0])
    else:
        parts = [chunks[number :: len(streams)] for number in range(len(streams))]
        with ThreadPoolExecutor(len(streams)) as pool:
            list(pool.map(_fill, parts, [table] * len(streams), streams))
    return values


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Thresholds, and for the likely values a shorter way than to search them.

    The range of the uniforms is divided into 2^bits equal buckets. ``shortcuts`` has a word for each that begins below
    ``searched``; none of them has more than one threshold. With b bits ``beside`` the magnitude, the word is 2^b times
    the magnitude at the bucket's begin, plus 2^b less the next b bits of its threshold, if it has one. So adding the
    next b bits of a uniform carries into the magnitude exactly if they are at least those of the threshold; a sum whose
    lower b bits are 0 may be a tie. Words are of 32 bits where enough of them are left beside the magnitudes: half of
    the table is more of it in a core's cache.
    """

    upper: NDArray[np.int64]
    lower: NDArray[np.uint64]
    shortcuts: NDArray[np.unsignedinteger[Any]]
    searched: int
    bits: int
    beside: int


@lru_cache(maxsize=_KEPT)
def _table(kind: Kind, variance: float) -> _Table:
    upper, lower = thresholds(kind, variance)
    bits = max(_FEWEST_BITS, (int(_BUCKETS * variance**0.5) - 1).bit_length())
    buckets = upper >> (BITS - 64 - bits)
    inside = np.bincount(buckets, minlength=1 << bits)
    crowded = np.flatnonzero(inside > 1)
    searched = int(crowded[0]) if len(crowded) else 1 << bits
    begins = (np.cumsum(inside) - inside)[:searched]
    # A sum may be one more than the magnitude at a bucket's begin.
    left = 32 - (int(begins[-1]) + 1).bit_length()
    beside = left if left >= _FEWEST_BESIDE else _MOST_BESIDE
    shortcuts = begins << beside
    alone = (inside[buckets] == 1) & (buckets < searched)
    following = (upper >> (BITS - 64 - bits - beside)) & ((1 << beside) - 1)
    shortcuts[buckets[alone]] += (1 << beside) - following[alone]
    width: type[np.unsignedinteger[Any]] = np.uint32 if left >= _FEWEST_BESIDE else np.uint64
    words = shortcuts.astype(width)
    for array in (upper, lower, words):
        array.setflags(write=False)
    return _Table(upper=upper, lower=lower, shortcuts=words, searched=searched, bits=bits, beside=beside)


def _fill(chunks: Sequence[NDArray[np.int32]], table: _Table, stream: "WordStream") -> None:
    """Fill the chunks: of each word the lowest bit is the sign, and the others are the first 63 bits of the uniform."""
    kind, beside = table.shortcuts.dtype.type, table.beside
    lower = kind((1 << beside) - 1)
    for chunk in chunks:
        words = stream.words(len(chunk))
        buckets = (words >> np.uint64(64 - table.bits)).view(np.int64)
        sums = table.shortcuts.take(buckets, mode="clip")
        sums += (words >> np.uint64(64 - table.bits - beside)).astype(kind) & lower
        rest = np.flatnonzero((buckets >= table.searched) | ((sums & lower) == 0))
        chunk[:] = sums >> kind(beside)
        chunk[rest] = _search((words[rest] >> np.uint64(1)).view(np.int64), table, stream)
        signs = -(words & np.uint64(1)).astype(np.int32)
        np.bitwise_xor(chunk, signs, out=chunk)
        np.subtract(chunk, signs, out=chunk)


def _search(uniforms: NDArray[np.int64], table: _Table, stream: "WordStream") -> NDArray[np.int64]:
    """Return the magnitudes of uniforms of 63 bits, to which those equal to a threshold's get 64 bits more."""
    magnitudes = np.searchsorted(table.upper, uniforms, side="left")
    ends = np.searchsorted(table.upper, uniforms, side="right")
    for tied in np.flatnonzero(magnitudes < ends):
        equal = table.lower[magnitudes[tied] : ends[tied]]
        magnitudes[tied] += np.searchsorted(equal, stream.words(1), side="right")[0]
    return magnitudes
