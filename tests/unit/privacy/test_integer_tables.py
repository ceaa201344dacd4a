"""The tables of the integer noise beside the same probabilities in 60 digits by mpmath."""

from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import pytest
from mpmath import besseli, cos, exp, mp, mpf, pi

from fedtrain.privacy.integer_noise import IntegerNoise
from fedtrain.privacy.integer_tables import BITS, reach, thresholds

KINDS = ("skellam", "discrete-gaussian")
END = (1 << BITS) - 1
CASES = [
    ("skellam", 2.0**-10),
    ("skellam", 0.3),
    ("skellam", 4.0),
    ("skellam", 123.456),
    ("skellam", 10_000.0),
    ("discrete-gaussian", 4.0),
    ("discrete-gaussian", 5.7),
    ("discrete-gaussian", 123.456),
    ("discrete-gaussian", 10_000.0),
]


@pytest.fixture(autouse=True)
def sixty_digits():
    with mp.workdps(60):
        yield


def table(kind, variance):
    """The thresholds as whole numbers."""
    upper, lower = thresholds(kind, variance)
    assert (upper.dtype, lower.dtype) == (np.int64, np.uint64)
    assert upper.shape == lower.shape == (reach(kind, variance),)
    return [(int(high) << 64) + int(low) for high, low in zip(upper, lower, strict=True)]


@lru_cache
def characteristic(variance):
    """A number of points of a circle, and Skellam's characteristic function exp(mu (cos t - 1)) at them."""
    points = 2 * reach("skellam", variance, 175) + 1
    sizes = [mpf(1)]
    while sizes[-1] > mpf(2) ** -190:
        sizes.append(exp(mpf(variance) * (cos(2 * pi * len(sizes) / points) - 1)))
    return points, [sizes[0], *(2 * each for each in sizes[1:])]


def skellam(variance, value):
    """The probability of a value, by the transform of the characteristic function.

    A sum over n points also has the probabilities of value + n, value + 2n, ...
    """
    points, sizes = characteristic(variance)
    return sum(size * turned(place * value % points, points) for place, size in enumerate(sizes)) / points


@lru_cache(1 << 15)
def turned(place, points):
    return cos(2 * pi * place / points)


def gaussian(variance, value):
    """A number proportional to the probability of a value."""
    return exp(-(mpf(value) ** 2) / (2 * mpf(variance)))


@lru_cache
def probabilities(kind, variance):
    """The probabilities of 0, 1, ... by mpmath, to far beyond the table."""
    values = range(reach(kind, variance, 175))
    if kind == "skellam":
        if variance < 100:
            # Here the characteristic function does not vanish.
            exact = [exp(-mpf(variance)) * besseli(value, mpf(variance)) for value in values]
        else:
            exact = [skellam(variance, value) for value in values]
        assert abs(exact[0] + 2 * sum(exact[1:]) - 1) < mpf(2) ** -160
        return exact
    weights = [gaussian(variance, value) for value in values]
    total = weights[0] + 2 * sum(weights[1:])
    return [each / total for each in weights]


def errors(kind, variance, found):
    """How far thresholds are from 2^127 times the cumulative probabilities; 0 at the cap."""
    exact = probabilities(kind, variance)
    below = accumulate((2 * each for each in exact[1:]), initial=exact[0])
    return [0 if t == END else t - each * mpf(2) ** BITS for t, each in zip(found, below, strict=False)]


@pytest.mark.parametrize(("kind", "variance"), CASES)
def test_every_threshold_is_the_cumulative_probability_rounded_down(kind, variance):
    found = errors(kind, variance, table(kind, variance))
    assert max(found) <= 2.0**-8
    assert min(found) > -1 - 2.0**-8


@pytest.mark.parametrize(("kind", "variance"), [("skellam", 123.456), ("discrete-gaussian", 123.456)])
def test_a_variance_that_is_off_by_the_last_bit_of_its_double_would_be_seen(kind, variance):
    found = errors(kind, variance, table(kind, float(np.nextafter(variance, 0))))
    assert max(map(abs, found)) > 2**60


@pytest.mark.parametrize(("kind", "variance"), CASES)
def test_the_distance_of_a_drawn_value_is_below_the_one_stated(kind, variance):
    noise = IntegerNoise(kind=kind, variance=variance)
    exact = probabilities(kind, variance)
    ends = [0, *table(kind, variance), END + 1]
    drawn = [mpf(end - start) / mpf(2) ** BITS for start, end in pairwise(ends)]
    assert len(drawn) == noise.most + 1
    drawn += [mpf(0)] * (len(exact) - len(drawn))
    true = [exact[0], *(2 * each for each in exact[1:])]
    distance = sum(abs(one - other) for one, other in zip(drawn, true, strict=True)) / 2
    assert 0 < distance < noise.distance
    assert noise.distance <= 2.0**-105


@pytest.mark.parametrize("variance", [123.456, 300.0])
def test_the_two_definitions_of_skellam_agree(variance):
    for value in (0, 1, 2, 9, 40):
        assert abs(skellam(variance, value) - exp(-mpf(variance)) * besseli(value, mpf(variance))) < mpf(2) ** -160


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deviation", [5_000, 65_536])
def test_probabilities_of_large_tables(kind, deviation):
    variance = float(deviation**2)
    found = table(kind, variance)
    assert all(one <= other for one, other in pairwise(found))
    # A discrete Gaussian of this size is normalised by the root of 2 pi variance to far more digits than these.
    scale = 1 / (mp.sqrt(2 * pi) * deviation) * mpf(2) ** BITS

    def expected(value):
        return scale * gaussian(variance, value) if kind == "discrete-gaussian" else skellam(variance, value) * 2**BITS

    assert abs(found[0] - expected(0)) < 1 + 2.0**-8
    for value in [1, 2, 17, *(int(deviation * part) for part in (0.5, 1, 2, 3.3, 5, 8, 11))]:
        assert abs(found[value] - found[value - 1] - 2 * expected(value)) < 1 + 2.0**-7


@pytest.mark.parametrize("bits", [20, 128, 168])
@pytest.mark.parametrize(("kind", "variance"), CASES)
def test_beyond_the_reach_there_is_no_more_than_said(kind, variance, bits):
    exact = probabilities(kind, variance)
    beyond = reach(kind, variance, bits) + 1
    assert 2 * sum(exact[beyond:]) <= mpf(2) ** -bits
    # At a deviation less there would be more: where the distribution is wide, the bound is no larger than it has to be.
    if variance > 1000:
        assert 2 * sum(exact[beyond - int(variance**0.5) :]) > mpf(2) ** -bits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [4.0, 123.456])
def test_the_variance_is_the_one_that_is_said(kind, variance):
    found = 2 * sum(value * value * each for value, each in enumerate(probabilities(kind, variance)))
    lacking = 1 - found / mpf(variance)
    assert abs(lacking) < (2e-32 if kind == "discrete-gaussian" else 1e-40)
    if (kind, variance) == ("discrete-gaussian", 4.0):
        assert lacking > 1e-32
