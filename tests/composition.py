"""A lower bound on the true epsilon of a composition, which shares no code with any accountant and no rounding.

    python -m tests.composition > tests/vectors/epsilons.json

The mechanism is the Poisson-sampled Gaussian, and one record is removed: outputs are of P = (1 - q) N(0, s^2) + q N(1,
s^2) in one world and of Q = N(0, s^2) in the other. Each thing that is done can only lower delta:

- outputs are merged into intervals, which is post-processing. They are chosen so that the ratio of P and Q of each is
  a whole power of exp(h): then losses are whole numbers of h, and nothing is lost by rounding them;
- probabilities are computed in 70 digits, and rounded down to whole multiples of 10^-60;
- compositions are products of polynomials in whole numbers, which are exact, and rounded down again;
- a loss above the window is lowered to its end, one below it is left out.

Delta at epsilon is the sum over losses above it of probability times 1 - exp(epsilon - loss), rounded down. So the true
epsilon at a delta is at least the largest epsilon at which this sum is above that delta.
"""

import decimal
import json
import sys
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor

from mpmath import erfc, exp, log, mp, mpf, pi, sqrt

DIGITS = 60
_UNIT = 10**DIGITS
# Digits of a coefficient of a product: two factors, and a sum of at most 10^7 of them.
_WIDTH = 2 * DIGITS + 7
_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
mp.dps = 70
# More than what so many digits err by, and far less than matters.
_ERROR = mpf(10) ** -30


@dataclass(frozen=True)
class Losses:
    """Privacy losses on a grid: ``probabilities[i] / 10^60``, rounded down, is that of ``(lowest + i) * grid``."""

    grid: float
    lowest: int
    probabilities: tuple[int, ...]

    def compose(self, other: "Losses", window: tuple[float, float]) -> "Losses":
        """Return the composition within a window of losses."""
        product = _product(self.probabilities, other.probabilities)
        lowest = self.lowest + other.lowest
        least, most = ceil(window[0] / self.grid), floor(window[1] / self.grid)
        kept = [value // _UNIT for value in product[max(least - lowest, 0) : max(most - lowest + 1, 0)]]
        if above := sum(product[max(most - lowest + 1, 0) :]) // _UNIT:
            kept[-1] += above
        return Losses(self.grid, max(lowest, least), tuple(kept))

    def repeated(self, steps: int, window: tuple[float, float]) -> "Losses":
        """Return the composition with itself."""
        total, power = None, self
        while steps:
            if steps & 1:
                total = power if total is None else total.compose(power, window)
            steps >>= 1
            if steps:
                power = power.compose(power, window)
        assert total is not None
        return total

    def epsilon(self, delta: float) -> float:
        """Return a lower bound on the true epsilon at a delta, to 12 digits."""
        step, target = exp(mpf(self.grid)), mpf(delta) * _UNIT * (1 + _ERROR)
        end = self.lowest + len(self.probabilities)
        # Sums over the losses above: of probabilities, and of those times exp(-loss).
        upper, lower, inverse = mpf(0), mpf(0), exp(-end * mpf(self.grid))
        for value in reversed(self.probabilities):
            inverse *= step  # exp(-loss)
            if upper - lower / inverse > target:
                break
            upper, lower = upper + value, lower + value * inverse
        return max(0.0, float(log((upper - target) / lower)) * (1 - 1e-12)) if upper > target else 0.0


def sampled_gaussian(rate: float, noise: float, grid: float) -> Losses:  # noqa: C901 - one derivation, in its order
    """Return the losses of one step. Those of outputs further out than 11.5 deviations are lowered to theirs."""
    q, s, h = mpf(rate), mpf(noise), mpf(grid)

    def below(x, mean=0):
        return erfc((mean - x) / (s * sqrt(2))) / 2

    def of_both(x):
        mine = below(x)
        return (1 - q) * mine + q * below(x, 1), mine

    def density(x):
        return exp(-((x / s) ** 2) / 2) / (s * sqrt(2 * pi))

    def output(loss):
        return s**2 * log((exp(loss) - 1 + q) / q) + mpf(1) / 2

    largest = log(1 - q + q * exp((1 + 23 * s) / (2 * s**2)))
    # Outputs further out on the other side are in the first interval, whose ratio is that of all of it.
    least = ceil(float(log(1 - q + q * exp(-(1 + 24 * s) / (2 * s**2)))) / grid + 1e-9)
    place, edge, (p, r) = least, None, (mpf(0), mpf(0))
    found: dict[int, int] = {}
    while place * grid < largest:
        ratio = exp(place * h)
        near, beyond = output(place * h), output((place + mpf(1) / 2) * h)
        if edge is not None and near - edge < (beyond - near) / 5:
            place += 1  # the interval begins above this ratio, or so near that nothing would be in it
            continue

        if edge is not None and 1 - p <= ratio * (1 - r):
            break  # all that is left has a lower ratio together
        # Newton's method for the end of the interval, between the output of that loss and one that is too far.
        after, far = beyond if edge is None else max(beyond, 2 * near - edge), None
        for _ in range(200):
            mine, other = of_both(after)
            excess = (mine - p) - ratio * (other - r)
            if abs(excess) <= _ERROR * (mine - p):
                break
            near, far = (after, far) if excess < 0 else (near, after)
            slope = density(after) * (1 - q + q * exp((2 * after - 1) / (2 * s**2)) - ratio)
            after = after - excess / slope if slope > 0 else near
            if far is None:
                after = min(after, near + s)
            elif not near < after < far:
                after = (near + far) / 2
        else:
            raise ArithmeticError(f"no interval of the ratio exp({place} h) was found after {edge}")
        found[place] = int((mine - p) * (1 - _ERROR) * _UNIT)
        edge, p, r, place = after, mine, other, place + 1
    found[place - 1] = found.get(place - 1, 0) + int((1 - p) * (1 - _ERROR) * _UNIT)
    lowest = min(found)
    return Losses(grid, lowest, tuple(max(found.get(each, 0), 0) for each in range(lowest, place)))


def hockey_stick(rate: float, noise: float, epsilon: float, *, added: bool = False) -> mpf:
    """Return delta at an epsilon for one step, where the record is removed or added: its definition, in 70 digits."""
    q, s, odds = mpf(rate), mpf(noise), exp(mpf(epsilon))

    def below(x, mean=0):
        return erfc((mean - x) / (s * sqrt(2))) / 2

    ratio = (1 / odds if added else odds) - 1 + q
    if ratio <= 0:
        return mpf(0) if added else 1 - odds
    cut = s**2 * log(ratio / q) + mpf(1) / 2
    alone, mixed = below(cut), (1 - q) * below(cut) + q * below(cut, 1)
    return alone - odds * mixed if added else (1 - mixed) - odds * (1 - alone)


def _product(one: tuple[int, ...], other: tuple[int, ...]) -> list[int]:
    """Return the product of two polynomials, exactly: one multiplication of numbers with room for each coefficient."""
    with decimal.localcontext(_EXACT):
        digits = str(_packed(one) * _packed(other)) if one is not other else str(_packed(one) ** 2)
    count = len(one) + len(other) - 1
    digits = digits.rjust(count * _WIDTH, "0")
    return [int(digits[end - _WIDTH : end]) for end in range(len(digits), len(digits) - count * _WIDTH, -_WIDTH)]


def _packed(values: tuple[int, ...]) -> Decimal:
    return Decimal("".join(str(value).rjust(_WIDTH, "0") for value in reversed(values)))


CASES = (
    # (rate, noise, steps), grid, window of losses
    ((0.01, 1.0, 10_000), 1e-3, (-10.0, 20.0)),
    ((0.01, 0.5, 10_000), 1e-3, (-20.0, 110.0)),
    ((1 - 1e-9, 100.0, 10**6), 1e-3, (-60.0, 180.0)),
    ((0.01, 1.0, 10), 1e-3, (-5.0, 20.0)),
    ((0.001, 0.6, 1000), 5e-4, (-10.0, 40.0)),
    ((0.2, 2.0, 100), 2e-3, (-15.0, 25.0)),
    ((0.5, 5.0, 1), 1e-3, (-5.0, 5.0)),
    ((1.0, 50.0, 500), 1e-3, (-10.0, 12.0)),
    ((0.02, 20.0, 1000), 1e-4, (-2.0, 3.0)),
    ((0.004266666666666667, 1.1, 14_062), 5e-4, (-8.0, 16.0)),
    ((0.99, 3.0, 200), 1e-2, (-40.0, 90.0)),
)
DELTAS = (1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-12, 1e-15)


def main() -> None:
    """Print the values that the tests compare claims with."""
    sys.set_int_max_str_digits(0)
    found = []
    for (rate, noise, steps), grid, window in CASES:
        losses = sampled_gaussian(rate, noise, grid).repeated(steps, window)
        least = {f"{delta:g}": float(f"{losses.epsilon(delta):.9g}") for delta in DELTAS}
        found.append({"sampling_rate": rate, "noise_multiplier": noise, "steps": steps, "grid": grid, "epsilon": least})
        print(found[-1], file=sys.stderr)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
