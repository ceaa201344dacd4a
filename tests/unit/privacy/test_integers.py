import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import SampledGaussian, SampledSkellam
from fedtrain.privacy.accounting import integers
from fedtrain.privacy.accounting.skellam_loss import SkellamLoss, log_probabilities
from fedtrain.privacy.events import NOISE_DISTANCE
from fedtrain.privacy.integer_noise import IntegerNoise
from tests.skellam import probabilities, worlds


def event(rate=0.1, variance=10**8, l2=10_000, l1=300_000, values=1000, steps=10):
    return SampledSkellam(sampling_rate=rate, variance=variance, l2=l2, l1=l1, values=values, steps=steps)


def corollary(order, variance, l2, l1):
    """Return the bound of Agarwal, Kairouz, Liu 2021, corollary 3.6, in fractions."""
    fine = Fraction((2 * order - 1) * l2**2 + 6 * l1, 4 * variance**2)
    return Fraction(order * l2**2, 2 * variance) + min(fine, Fraction(3 * l1, 2 * variance))


@pytest.mark.parametrize("order", [2, 3, 10, 500])
@pytest.mark.parametrize(("variance", "l2", "l1"), [(1, 1, 1), (4, 3, 9), (100, 10, 90), (10**9, 40_000, 4_000_000)])
def test_the_divergence_is_that_of_the_corollary(order, variance, l2, l1):
    found = integers.divergence(event(variance=variance, l2=l2, l1=l1), np.array([float(order)]))
    assert found[0] == pytest.approx(float(corollary(order, variance, l2, l1)), rel=1e-14)


def exact_moment(rate, order, divergence):
    """Return the logarithm of the binomial sum in many digits, where ``divergence`` gives that of whole orders."""
    with mp.workdps(60):
        q = mpf(rate)
        whole = [mp.exp((k - 1) * divergence(k)) if k > 1 else mpf(1) for k in range(order + 1)]
        return mp.log(
            mp.fsum(mp.binomial(order, k) * (1 - q) ** (order - k) * q**k * whole[k] for k in range(order + 1))
        )


@pytest.mark.parametrize("rate", [1e-7, 1e-3, 0.3, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("order", [2, 17, 600])
@pytest.mark.parametrize("noise", [0.05, 1.0, 100.0])
def test_rounding_never_lowers_a_moment(rate, order, noise):
    skellam = event(rate, variance=round(noise**2 * 10**8), l1=10**6)
    gaussian = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=1)
    truths = {
        skellam: lambda k: (
            mpf(corollary(k, skellam.variance, skellam.l2, skellam.l1).numerator)
            / corollary(k, skellam.variance, skellam.l2, skellam.l1).denominator
        ),
        gaussian: lambda k: k / (2 * mpf(noise) ** 2),
    }
    for each, divergence in truths.items():
        truth, found = exact_moment(rate, order, divergence), integers.moment(each, order)
        assert truth <= found <= truth * (1 + mpf(10) ** -9)


@pytest.mark.parametrize("variance", [64, 144])
def test_skellam_noise_is_as_close_to_the_mixture_of_gaussians_as_is_said(variance):
    # The mixture is summed over all variances that matter, with the probabilities of a Poisson variable.
    mean = mpf(25 * variance) / 3
    counts = range(int(mean - 24 * mp.sqrt(mean)), int(mean + 24 * mp.sqrt(mean)))
    weights = {n: mp.exp(n * mp.log(mean) - mean - mp.loggamma(n + 1)) for n in counts if variance + (n - mean) / 5 > 0}
    spreads = [(weight, variance + (n - mean) / 5) for n, weight in weights.items() if weight > mpf(10) ** -22]
    near = probabilities(variance, 13 * math.isqrt(variance))
    with mp.workdps(30):
        gaps = [
            abs(each - sum(weight * mp.npdf(x, 0, mp.sqrt(spread)) for weight, spread in spreads))
            for x, each in enumerate(near)
        ]
        distance = float((gaps[0] / 2 + sum(gaps[1:])) * variance**3)
    assert 1 / 2200 < distance < 1 / 1900


@pytest.mark.parametrize("variance", [integers.LEAST_VARIANCE, 10**6, 10**12])
def test_the_bound_on_the_distance_is_the_integral(variance):
    def integrand(v):
        f, h = v**8 / 28800, v**7 / 3600
        return mp.exp(-(v**2) + v**4 / (12 * variance)) * (f**2 + ((v + v**3 / (6 * variance)) * f + h) ** 2)

    ends = [0, 2, 4, 8, 16, 64, mp.pi * mp.sqrt(variance)]
    assert mp.sqrt(2 * mp.quad(integrand, ends) / 8) < 1 / mpf(117)


@pytest.mark.parametrize("variance", [1, 50, 4096, 10**7])
def test_characteristic_functions_and_their_slopes_are_as_near_as_is_said(variance):
    m, mean = mpf(variance), mpf(25 * variance) / 3
    for t in (mp.pi * place / 200 for place in range(1, 201)):
        x = t**2 / 10
        exponents = m * (mp.cos(t) - 1 + t**2 / 2), mean * (mp.exp(-x) - 1 + x)
        slopes = m * (t - mp.sin(t)), mean * t / 5 * (1 - mp.exp(-x))
        low, slope = m * (t**4 / 24 - t**6 / 720), m * (t**3 / 6 - t**5 / 120)
        assert all(low <= each <= min(low + m * t**8 / 28800, m * t**4 / 24) for each in exponents)
        assert all(slope <= each <= min(slope + m * t**7 / 3600, m * t**3 / 6) for each in slopes)


def test_rounding_a_gaussian_gives_the_mixture():
    # One coordinate of what the page says of variances, by integration: y is rounded with odds of variance 4.
    variance, x = 100.0, 3

    def rounded(y):
        odds = [mp.exp(-((z - y) ** 2) / 8) for z in range(int(y) - 40, int(y) + 41)]
        return mp.exp(-((x - y) ** 2) / 8) / sum(odds) * mp.npdf(y, 0, mp.sqrt(variance - 4))

    with mp.workdps(20):
        found = mp.quad(rounded, [x - 24, x - 8, x, x + 8, x + 24])
    assert found == pytest.approx(float(mp.npdf(x, 0, mp.sqrt(variance))), rel=1e-12)


def test_the_gaussian_has_a_little_less_noise():
    close = integers.gaussian(event(0.25, variance=1_600_000_000, l2=40_000, steps=7))
    assert (close.sampling_rate, close.steps) == (0.25, 7)
    assert 0.99991 < close.noise_multiplier < (1 - 12 * math.sqrt(1 / 1_600_000_000 / 3)) ** 0.5
    with pytest.raises(PrivacySpecError, match="variance 4095 in grid steps is not shown"):
        integers.gaussian(event(variance=4095))


def test_distances_add_up_over_values_and_steps():
    one = event(variance=10**6, values=1, steps=1)
    many = event(variance=10**6, values=50, steps=6)
    gaussian = SampledGaussian(sampling_rate=1.0, noise_multiplier=1.0, steps=10**6)
    assert integers.distance((gaussian,), of_gaussian=True) == 0
    for of_gaussian, least in ((False, NOISE_DISTANCE), (True, 1e-20)):
        single = integers.distance((one,), of_gaussian=of_gaussian)
        assert least < single < least * 1.001
        assert integers.distance((many, gaussian), of_gaussian=of_gaussian) == pytest.approx(300 * single)


@pytest.mark.parametrize("variance", [4.0, 1e5, 2.0**34])
def test_noise_that_is_drawn_is_as_near_as_the_accounting_has_it(variance):
    assert 512 * IntegerNoise(kind="skellam", variance=variance).distance <= NOISE_DISTANCE


def test_delta_pays_for_the_distance():
    asked = []

    def epsilon(delta):
        asked.append(delta)
        return 2.0

    assert integers.paid_for(epsilon, 1e-5, 0.0) == 2.0
    assert integers.paid_for(epsilon, 1e-5, 1e-9) == 2.0
    assert asked == [1e-5, 1e-5 * (1 - 1e-3)]
    # (1 + e^2) 1.2e-9 is above a thousandth of delta.
    with pytest.raises(PrivacySpecError, match=r"at epsilon 2 the noise can differ .* 1\.0e-08 of delta 1e-05"):
        integers.paid_for(epsilon, 1e-5, 1.2e-9)
    with pytest.raises(PrivacySpecError, match="at epsilon 1e"):
        integers.paid_for(lambda delta: 1e4, 1e-5, 1e-30)


@pytest.mark.parametrize("variance", [1, 30, 9999, 10_001])
def test_probabilities_of_the_second_opinion(variance):
    exact = probabilities(variance, 130)
    found = log_probabilities(np.arange(-130.0, 131.0), variance)
    assert found[130:] == pytest.approx([float(mp.log(each)) for each in exact], rel=1e-10, abs=1e-11)
    assert np.array_equal(found, found[::-1])


def test_expanded_probabilities_have_the_moments_of_the_noise():
    variance, x = 10**10, np.arange(-1_500_000.0, 1_500_001.0, 500.0)
    weights = 500 * np.exp(log_probabilities(x, variance))
    assert weights.sum() == pytest.approx(1, rel=1e-11)
    assert (weights * x**2).sum() == pytest.approx(variance, rel=1e-10)
    # A Skellam's kurtosis is 3 + 1 / variance.
    assert (weights * x**4).sum() / variance**2 - 3 == pytest.approx(1e-10, abs=3e-9)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_losses_of_one_dimension(rate):
    without, with_ = worlds(25, (5,), 90)
    mixed = (1 - rate) * without + rate * with_
    found = SkellamLoss.of(event(rate, variance=25, l2=5, l1=5))
    assert found.mean() == pytest.approx(float((mixed * np.log(mixed / without)).sum()), rel=1e-9)
    middle = np.log(mixed / without)[80:110]
    assert found.cdf(middle + 1e-9) == pytest.approx(np.cumsum(mixed)[80:110], abs=1e-12)
    assert found.cdf(np.array([-100.0, 100.0])) == pytest.approx([0.0, 1.0])
    kept = found.within(-0.5, 1.0)
    assert kept.probabilities.sum() == pytest.approx(1)
    assert kept.losses.min() >= -0.5
    assert kept.losses.max() <= 1.0
