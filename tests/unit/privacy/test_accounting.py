import pytest

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import COARSE, SampledGaussian, epsilon_of, merge


def event(rate=0.01, noise=1.0, steps=100):
    return SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "expected"),
    [(0.01, 1.0, 10000, 6.188), (256 / 60000, 1.1, 14062, 2.382), (1.0, 50.0, 500, 1.760)],
)
def test_reference_values(rate, noise, steps, expected):
    assert epsilon_of([event(rate, noise, steps)], 1e-5) == pytest.approx(expected, abs=1e-3)


def test_opacus_prv_gives_a_second_opinion():
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV  # noqa: F401

    accountant = PRVAccountant()
    accountant.history = [(1.0, 0.01, 10000)]
    assert epsilon_of([event(steps=10000)], 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), abs=0.03)


def test_the_coarse_bound_is_never_the_smaller_one():
    assert epsilon_of([event()], 1e-5, discretization=COARSE) >= epsilon_of([event()], 1e-5)


def test_order_and_grouping_do_not_matter():
    split = [event(steps=30), event(rate=0.02, steps=5), event(steps=70)]
    joined = [event(rate=0.02, steps=5), event(steps=100)]
    assert merge(split) == merge(joined)
    assert epsilon_of(split, 1e-5) == epsilon_of(joined, 1e-5)


def test_an_accountant_that_starts_anew_each_round_would_understate():
    rounds = [event(steps=100)] * 10
    assert epsilon_of(rounds, 1e-5) > 1.5 * epsilon_of(rounds[:1], 1e-5)


def test_nothing_spends_nothing():
    assert epsilon_of([], 1e-5) == 0.0
    assert epsilon_of([event(steps=0)], 1e-5) == 0.0


@pytest.mark.parametrize(
    "bad", [event(rate=0.0), event(rate=1.1), event(noise=0.0), event(noise=float("inf")), event(steps=-1)]
)
def test_events_outside_of_the_mechanism_are_refused(bad):
    with pytest.raises(PrivacySpecError, match="not a Poisson-sampled Gaussian"):
        epsilon_of([bad], 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_delta_is_a_probability(delta):
    with pytest.raises(PrivacySpecError, match="delta"):
        epsilon_of([event()], delta)
