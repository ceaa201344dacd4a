"""Exact Skellam mechanisms, small ones by enumeration, which share no code with any accountant.

    python -m tests.skellam > tests/vectors/epsilons_skellam.json

Probabilities are those of the difference of two Poisson variables, added up from their definition in many digits, and
not Bessel functions as the accountants take them.
"""

import json
import sys
from functools import cache
from itertools import product
from math import ceil, floor
from operator import mul

import numpy as np
from mpmath import exp, log, loggamma, mpf

from tests.composition import _UNIT, Losses

_SCALE = 10**320  # of whole numbers that stand for probabilities


@cache
def probabilities(variance: float, reach: int):
    """Return the probabilities of 0 to ``reach``, in 60 digits."""
    mean = mpf(variance) / 2
    around, width = int(mean), int(30 * mean**0.5) + 60
    counts = range(max(around - width, 0), around + width + reach)
    poisson = [int(exp(count * log(mean) - mean - loggamma(count + 1)) * _SCALE) for count in counts]
    return tuple(mpf(sum(map(mul, poisson[x:], poisson))) / _SCALE**2 for x in range(reach + 1))


def worlds(variance: float, shift: tuple[int, ...], reach: int):
    """Return the probabilities of all vectors within ``reach``, of the noise and of the noise around ``shift``.

    Arrays of shape (2 * reach + 1,) * coordinates.
    """
    near = np.array([float(each) for each in probabilities(variance, reach + max(map(abs, shift)))])
    values = np.arange(-reach, reach + 1)
    without, with_ = np.ones(()), np.ones(())
    for each in shift:
        without = np.multiply.outer(without, near[np.abs(values)])
        with_ = np.multiply.outer(with_, near[np.abs(values - each)])
    return without, with_


def shifts(l2: int, l1: int, coordinates: int):
    """Return all vectors of integers within both norms, but for signs and order."""
    return [
        shift
        for shift in product(range(l2, -1, -1), repeat=coordinates)
        if sorted(shift, reverse=True) == list(shift)
        and 0 < sum(each**2 for each in shift) <= l2**2
        and sum(shift) <= l1
    ]


def spends(without, with_, rate: float, epsilon: float) -> float:
    """Return delta at an epsilon for one step, where the record is removed or added, whichever is larger."""
    mixed = (1 - rate) * without + rate * with_
    odds = np.exp(epsilon)
    return max(float(np.maximum(mixed - odds * without, 0).sum()), float(np.maximum(without - odds * mixed, 0).sum()))


def losses(variance: int, shift: int, rate: float, grid: float, reach: int, *, added: bool = False) -> Losses:
    """Return losses of one step in one dimension, rounded down, with probabilities that are rounded down."""
    near, q, found = probabilities(variance, reach + shift), mpf(rate), {}
    for x in range(-reach, reach + 1):
        alone, other = near[abs(x)], near[abs(x - shift)]
        mixed = (1 - q) * alone + q * other
        top, bottom = (alone, mixed) if added else (mixed, alone)
        place = floor(log(top / bottom) / mpf(grid) - mpf(10) ** -20)
        found[place] = found.get(place, 0) + int(top * _UNIT * (1 - mpf(10) ** -30))
    lowest, highest = min(found), max(found)
    return Losses(grid, lowest, tuple(found.get(place, 0) for place in range(lowest, highest + 1)))


def reach_of(variance: int, shift: int) -> int:
    """Return how far out probabilities matter to deltas of 1e-9 and more."""
    return shift + ceil(9 * variance**0.5) + 12


CASES = (
    # (rate, variance, l2, steps), grid, window of losses
    ((0.2, 9, 3, 20), 1e-3, (-12.0, 24.0)),
    ((0.05, 1, 1, 30), 5e-4, (-8.0, 16.0)),
    ((1.0, 100, 5, 20), 1e-3, (-12.0, 24.0)),
    ((0.3, 400, 20, 10), 1e-3, (-12.0, 24.0)),
    ((0.1, 40_000, 200, 100), 5e-4, (-10.0, 20.0)),
    ((0.02, 40_000, 100, 300), 1e-4, (-4.0, 8.0)),
    ((1.0, 40_000, 40, 30), 5e-4, (-8.0, 16.0)),
)
DELTAS = (1e-3, 1e-5, 1e-7)


def main() -> None:
    """Print lower bounds on the true epsilon, where a record is removed that changes one coordinate."""
    sys.set_int_max_str_digits(0)
    found = []
    for (rate, variance, l2, steps), grid, window in CASES:
        whole = losses(variance, l2, rate, grid, reach_of(variance, l2)).repeated(steps, window)
        least = {f"{delta:g}": float(f"{whole.epsilon(delta):.9g}") for delta in DELTAS}
        found.append({"sampling_rate": rate, "variance": variance, "l2": l2, "steps": steps, "epsilon": least})
        print(found[-1], file=sys.stderr)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
