"""By how much rounding can change the delta of a composition by Fourier transforms.

Below, u = 2^-53 is the rounding of one operation, n the points of a transform, T the steps, p the probabilities of one
step, F its transform, and x the probabilities of all steps, of which F^T is the transform. Delta is a sum of x with
weights between 0 and 1. So an error e of x changes it by at most the sum of |e|, which is at most sqrt(n) times the L2
norm of e (Cauchy and Schwarz), which is the L2 norm of the error of F^T (Parseval).

- A transform: each coefficient is a sum over the points, in stages. A stage of 2 to 11 points multiplies by rounded
  roots of unity and adds up. For each doubling it errs by at most 6 u, relative to the sum of the magnitudes below it,
  which is 1. So each coefficient errs by at most A = 6 u (log2(n) + 1).
- A power: (F + a)^T - F^T is at most T a (|F| + a)^(T - 1), for a = A. The power itself is exp(T log F), whose exponent
  errs by 2 u of its magnitude and of its angle, which is at most pi: together at most 16 u T |F|^T.
- So the error of F^T has an L2 norm of at most T (A + 16 u) times that of |F|^(T - 1). Where |F| is 0.9 and more, that
  is at most |F|^T / 0.9; elsewhere at most 0.9^(T - 1); and it is never above |F|. The norm of F^T is sqrt(n) times
  that of x, and the norm of F is sqrt(n) times that of p.
- The transform back errs by at most 16 u (log2(n) + 1) of the L2 norm of what it returns (Higham 2002, theorem 24.2,
  for stages of up to 11 points).
- A sum of N numbers in their order errs by at most 2 N u of the sum of their magnitudes.
- The probabilities of one step are differences of deltas at the points of a grid of h. Such a delta errs by at most
  64 u of the probability of a loss above it. A difference over h errs by at most 6 u / h of that probability, and
  summed over the losses above epsilon, weighted as in delta, by 6 u / h of the mean excess over epsilon. That is at
  most the largest loss plus 1, times delta itself. Where rounding makes a probability negative, dp-accounting takes 0,
  which is larger.

An error of one mechanism's probabilities stays as large when others are composed with it, since theirs sum to 1. So
errors add up. `tests/unit/privacy/test_rounding.py` compares them with compositions in many digits.
"""

from math import log2, sqrt

ROUNDING = 2.0**-53

CONSTRUCTION = 64 * ROUNDING
"""By how much a delta of one step can differ."""

# Of the norm of a composition, times the root of its points. It is 2 to 3 for high rates, and up to 16 for low ones and
# for few steps. With a constant the bound is in proportion to the steps, and does not fall where the rate or the noise
# does.
_LEAST_NORM = 16.0
_BITS = 22.0
_POWER = 16 * ROUNDING
_HIGH = 0.9

_LEFT = 0.9

# Above it, 5-smooth numbers are closer than a tenth.
_DENSE = 1000


def self_composition(*, steps: int, points: int, one: float, composed: float) -> float:
    """Return by how much delta can differ for one mechanism composed with itself.

    Args:
        steps: how often; without a transform if once.
        points: of the transform.
        one: L2 norm of the probabilities of one step.
        composed: L2 norm of those of all steps, as computed.
    """
    if steps == 1:
        return 0.0
    whole = max(_LEAST_NORM, sqrt(points) * composed * (1 + 1e-3))
    powers = min(sqrt(points) * one, whole / _HIGH + sqrt(points) * _HIGH ** (steps - 1))
    return steps * (_transform(points) + _POWER) * powers + 16 / 6 * _transform(points) * whole


def composition(*, points: int, one: float, other: float) -> float:
    """Return by how much delta can differ for two mechanisms composed with each other.

    Args:
        points: of the transform.
        one: L2 norm of the probabilities of the one.
        other: that of the other.
    """
    # The product of two transforms errs by what each errs by times the other, which is at most 1, and by 3 u of itself.
    return (3 * _transform(points) + 3 * ROUNDING) * sqrt(points) * (one + other)


def least(steps: int) -> float:
    """Return the least that `self_composition` gives for so many steps, whatever the mechanism."""
    return steps * (_transform(1) + _POWER) * _LEAST_NORM if steps > 1 else 0.0


def small(delta: float, left: float) -> bool:
    """Return whether what is left of delta is at least nine tenths of it: epsilon is larger by about one per cent then.

    Epsilon is at least z deviations of the loss, and falls by a deviation over z where delta is e times as large. Where
    delta is below a thousandth, z is above 3.
    """
    return left >= _LEFT * delta


def transformed(points: int) -> int:
    """Return a bound on the length of a transform of so many points: the next one with small prime factors."""
    return points + points // 10 if points >= _DENSE else 2 * points


def of_differences(grid: float) -> float:
    """Return the share of delta by which probabilities of one step can differ, for each unit of the largest loss."""
    return 6 * ROUNDING / grid


def summation(points: int) -> float:
    """Return by how much a sum of so many numbers can differ, of the sum of their magnitudes."""
    return 2 * points * ROUNDING


def _transform(points: int) -> float:
    return 6 * ROUNDING * (max(_BITS, log2(points)) + 1)
