"""Shares of integer noise: what each client adds, and what a sum of them is sure to have.

Each client brings what it sends to whole numbers on a grid of ``steps`` grid steps for a clipping norm C, and adds its
share of Skellam noise to them (Agarwal, Kairouz, Liu 2021, "The Skellam mechanism for differentially private federated
learning"). Under secure aggregation the server learns the sum alone, which has the noise of all shares together: the
variances of Skellam shares add up. A share is so large that those of ``honest = threshold - colluders`` clients give
all of the noise that the accounting counts. A sum of fewer than ``threshold`` clients is never unmasked, and of its
members at most ``colluders`` take their shares off again. More survivors give more noise, never a refund.

The sensitivity is that after rounding. Let x and y be the sums of a client in grid steps, of d coordinates, for
neighbouring data sets. Every number is rounded to the nearest whole one, so that

    |round(x_i) - round(y_i)| <= |x_i - y_i| + 1,

since each rounding moves a number by 1/2 at most. The bound is tight: rounding to the nearest even number takes 1/2
and 3/2 to 0 and 2. By the triangle inequality the L2 norm of the difference is at most |x - y| + sqrt(d), and its L1
norm at most sqrt(d) times that (Cauchy and Schwarz). A coordinate is then brought to the range from ``-limit`` to
``limit``, which makes no difference larger. So with a norm of at most ``steps`` before rounding, and d at most
``values``, a perfect square,

    l2 = steps + sqrt(values),    l1 = sqrt(values) * l2.

Clipping is to C less a thousandth, `clip_norm_of`. What is left is for the rounding of floats: a norm is exact to some
1e-6 of C. Sums of gradients are in double precision: in single precision one record more rounds the sum of all others
anew, by 1e-4 of C among some thousand records and by 1e-2 among 250,000. That is measured, and no proof: the gradient
of a record can depend on those beside it, in its last digits.

The range. ``limit`` plus the largest magnitude that a share has, ``most``, fits in the signed ``bits`` of a coordinate,
and so many times that as there are members fits in 32 bits. So no sum wraps around, whatever is drawn.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isqrt, sqrt

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.integer_noise import IntegerNoise

FINENESS = 64
"""Grid steps of a clipping norm for each root of the number of values: rounding adds one in so many to the L2 norm."""

LEAST_DEVIATION = 2
"""Of a share, in grid steps."""

LARGEST_COHORT = 200
"""Beyond it secrets have fewer holders than the cohort has members, and a threshold says less of how many survived."""

_MARGIN = 1 / 1024
_WORD = 2**31 - 1
_LARGEST_VARIANCE = 2**34
_MOST_BITS = 30


@dataclass(frozen=True, kw_only=True)
class NoiseShares:
    """How the noise is shared, in public constants only.

    Attributes:
        members: clients in a cohort; each adds a share.
        threshold: clients without whose help no sum is unmasked.
        colluders: clients of a cohort that may tell the server their shares, or add none.
        bits: of a coordinate of what a client sends, its sign included.
        reach: bound on a coordinate of a client's sum, in clipping norms; what is larger is brought down to it.
    """

    members: int
    threshold: int
    colluders: int
    bits: int
    reach: int

    @property
    def honest(self) -> int:
        """The shares that are counted on."""
        return self.threshold - self.colluders

    @property
    def largest(self) -> int:
        """The largest magnitude of a coordinate."""
        return int((1 << (self.bits - 1)) - 1)

    @property
    def honest_told_apart(self) -> int:
        """The honest shares that are left if the server tells its clients different stories; 0 if there may be none.

        A server that does not follow the protocol can tell each client another set of survivors. A client x is left out
        of a sum only if ``threshold`` holders of its secrets were told that it dropped out. Of n members, c colluders
        answer anything; the n - c others are each told of n - threshold dropped clients at most. So for a sum over A

            (n - |A|) (threshold - c) <= (n - c) (n - threshold),

        and at least |A| - c of its members are honest. More colluders than 2 threshold - n - 1 are enough for both
        claims about one client, and then nothing is left.
        """
        members, threshold, colluders = self.members, self.threshold, self.colluders
        if colluders > 2 * threshold - members - 1:
            return 0
        left_out = (members - colluders) * (members - threshold) // (threshold - colluders)
        return min(self.honest, max(0, members - left_out - colluders))

    def check(self) -> None:
        """Refuse shares of which too few are left, or whose sums could overflow.

        Raises:
            PrivacySpecError: it says the arithmetic.
        """
        if not 2 <= self.members <= LARGEST_COHORT:  # noqa: PLR2004 - a sum has at least two terms
            raise PrivacySpecError(
                f"distributed noise takes a cohort of 2 to {LARGEST_COHORT}, and this has {self.members}: in larger "
                "ones clients share masks with some of the others, and so many survivors are not sure"
            )
        least = least_threshold(self.members)
        if not least <= self.threshold <= self.members:
            raise PrivacySpecError(
                f"a threshold of {self.threshold} cannot be used in a cohort of {self.members}: {least} to "
                f"{self.members} are allowed for transport.secagg.threshold, two thirds and more"
            )
        if self.colluders < 0 or self.honest < 1:
            raise PrivacySpecError(
                f"transport.secagg.threshold = {self.threshold} less privacy.colluders = {self.colluders} leaves "
                f"{self.honest} shares of noise that are sure, and at least 1 is needed: lower privacy.colluders, or "
                f"raise the threshold, to {self.members} at most"
            )
        if self.reach < 1:
            raise PrivacySpecError(f"a bound of {self.reach} clipping norms on a coordinate leaves nothing of it")
        most = most_bits(self.members)
        if not LEAST_BITS <= self.bits <= most:
            raise PrivacySpecError(
                f"transport.secagg.bits = {self.bits} cannot be used: the sum of {self.members} numbers of so many "
                f"bits has to fit in 32 bits, so {LEAST_BITS} to {most} bits are allowed"
            )


LEAST_BITS = 2


def least_threshold(members: int) -> int:
    """Return the least threshold of a cohort whose members all share masks with all: two thirds, rounded up."""
    return -(-2 * members // 3)


def most_bits(members: int) -> int:
    """Return the most bits of a coordinate with which a sum of so many fits in a word of 32 bits."""
    return min(_MOST_BITS, (_WORD // members + 1).bit_length())


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What follows from shares and a noise multiplier, all in grid steps: see the top of this module.

    Attributes:
        steps: of a clipping norm.
        limit: bound on a coordinate of a client's sum before the noise.
        values: the most coordinates that a vector may have; a perfect square.
        share: variance of a client's share.
        variance: of the shares that are counted on, together.
    """

    steps: int
    limit: int
    values: int
    share: int
    variance: int

    @property
    def l2(self) -> int:
        """Bound on the L2 norm of what one unit changes in the whole numbers of a client."""
        return self.steps + isqrt(self.values)

    @property
    def l1(self) -> int:
        """Bound on the L1 norm of the same."""
        return isqrt(self.values) * self.l2

    @property
    def noise(self) -> IntegerNoise:
        """The distribution of a client's share."""
        return IntegerNoise(kind="skellam", variance=float(self.share))

    @property
    def most(self) -> int:
        """The largest magnitude of a share."""
        return self.noise.most

    def check_length(self, values: int) -> None:
        """Refuse a vector that is longer than the sensitivity allows.

        Raises:
            PrivacySpecError: it says the arithmetic.
        """
        if values > self.values:
            raise PrivacySpecError(
                f"the model has {values} numbers that are trained, and the plan allows {self.values}: rounding each to "
                f"the grid, of {self.steps} steps for a clipping norm, moves a sum by up to the root of their number, "
                f"and the plan counts {isqrt(self.values)}. Raise transport.secagg.bits, as far as the cohort has room "
                "for it, or train fewer numbers"
            )


def clip_norm_of(clip_norm: float) -> float:
    """Return the norm to clip to, so that rounding floats does not bring anything beyond ``clip_norm``."""
    return clip_norm * (1 - _MARGIN)


@lru_cache(maxsize=256)
def grid_of(shares: NoiseShares, noise_multiplier: float) -> Grid:
    """Return the finest grid on which what a client sends fits in the bits of a coordinate.

    The shares that are counted on have together at least ``(noise_multiplier * l2)^2``, and as little more as whole
    numbers allow.

    >>> shares = NoiseShares(members=10, threshold=7, colluders=1, bits=22, reach=32)
    >>> grid = grid_of(shares, 1.0)
    >>> grid.limit + grid.most <= shares.largest
    True
    >>> 1.0 <= grid.variance / grid.l2**2 < 1.0001
    True

    Raises:
        PrivacySpecError: there is none, or a share of the noise would be too small for it; it says the arithmetic.
    """
    shares.check()
    low, high = 0, shares.largest // (FINENESS * shares.reach)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(shares, noise_multiplier, middle) else (low, middle - 1)
    if low < 1:
        raise PrivacySpecError(_too_small(shares, noise_multiplier))
    grid = _grid(shares, noise_multiplier, low)
    if grid.share < LEAST_DEVIATION**2:
        raise PrivacySpecError(
            f"a share of the noise has a standard deviation of {sqrt(grid.share):.2g} grid steps, that of "
            f"{noise_multiplier:g} clipping norms of {grid.l2} steps each over the root of {shares.honest} shares, and "
            f"at least {LEAST_DEVIATION} are needed: raise transport.secagg.bits"
        )
    return grid


def grid_to_account(shares: NoiseShares, noise_multiplier: float) -> Grid:
    """Return the grid as of `grid_of`, and the coarsest one where so much noise does not fit.

    A search for the least noise tries more than fits: it is the noise that it finds that has to.
    """
    try:
        return grid_of(shares, noise_multiplier)
    except PrivacySpecError:
        return _grid(shares, noise_multiplier, 1)


def _grid(shares: NoiseShares, noise_multiplier: float, root: int) -> Grid:
    """Return the grid for vectors of ``root^2`` values."""
    steps = FINENESS * root
    share = ceil((noise_multiplier * (steps + root)) ** 2 / shares.honest)
    return Grid(steps=steps, limit=shares.reach * steps, values=root**2, share=share, variance=share * shares.honest)


def _fits(shares: NoiseShares, noise_multiplier: float, root: int) -> bool:
    grid = _grid(shares, noise_multiplier, root)
    return grid.share <= _LARGEST_VARIANCE and grid.limit + max(grid.most, 1) <= shares.largest


def _too_small(shares: NoiseShares, noise_multiplier: float) -> str:
    grid = _grid(shares, noise_multiplier, 1)
    needed = grid.limit + grid.most
    bits = needed.bit_length() + 1
    room = "" if bits <= most_bits(shares.members) else f", and a cohort of fewer than {shares.members} for them"
    return (
        f"transport.secagg.bits = {shares.bits} is too small a modulus: on the coarsest grid, of {grid.steps} steps of "
        f"the clipping norm, a coordinate of a client's sum is up to {grid.limit} and its share of the noise up to "
        f"{grid.most}, together {needed}, and {shares.bits} bits hold {shares.largest}; it takes {bits} bits or "
        f"more{room}"
    )
