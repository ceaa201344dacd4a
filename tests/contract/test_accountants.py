"""What every accountant keeps to, and how they stand to each other."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import SampledGaussian, SampledSkellam, ceiling, claim, second_opinion
from fedtrain.privacy.accounting.mixed import GaussianPldAccountant, IntegerRdpAccountant
from fedtrain.privacy.accounting.pld import PldAccountant
from fedtrain.privacy.accounting.prv import PrvAccountant
from fedtrain.privacy.accounting.rdp import RdpAccountant

DELTA = 1e-5
# (rate, noise, steps): the values of the literature, then without sampling, with little noise, and with much.
LONG, MNIST, WHOLE = (0.01, 1.0, 10_000), (256 / 60_000, 1.1, 14_062), (1.0, 50.0, 500)
POINTS = [LONG, WHOLE, (1.0, 1.0, 1), (0.2, 2.0, 10), (0.2, 0.6, 10), (0.5, 5.0, 100), (0.02, 20.0, 50)]


def event(rate=0.1, noise=1.0, steps=10):
    return SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)


def gaussian(noise, steps, delta):
    """Return the exact epsilon of the Gaussian mechanism (Balle and Wang 2018, theorem 8), by bisection."""
    sigma = noise / math.sqrt(steps)

    def phi(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    def spends(epsilon):
        return phi(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * phi(-1 / (2 * sigma) - epsilon * sigma)

    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if spends(middle) > delta else (low, middle)
    return high


class AccountantContract:
    """The suite. A bound is at most ``relative`` times the exact epsilon, plus ``absolute``."""

    accountant = None
    relative, absolute = 1.0, 0.0

    def epsilon(self, events, delta=DELTA):
        return self.accountant.epsilon(events, delta)

    def test_nothing_spends_nothing(self):
        assert self.epsilon([]) == 0.0
        assert self.epsilon([event(steps=0), event(rate=1.0, steps=0)]) == 0.0

    def test_it_says_what_it_is(self):
        assert self.accountant.name
        assert self.accountant.version[0].isdigit()
        assert hash(self.accountant) == hash(type(self.accountant)())

    @pytest.mark.parametrize("rate", [0.1, 1.0])
    @pytest.mark.parametrize(
        "rising",
        [
            lambda rate: [([event(rate, steps=steps)], DELTA) for steps in (1, 2, 10, 100)],
            lambda rate: [([event(rate, noise=noise)], DELTA) for noise in (5.0, 2.0, 1.0, 0.7)],
            lambda rate: [([event(rate)], delta) for delta in (1e-3, 1e-5, 1e-7)],
            lambda rate: [([event(rate / 2)], DELTA), ([event(rate)], DELTA)],
            lambda rate: [([event(rate)], DELTA), ([event(rate), event(0.05, 3.0)], DELTA)],
        ],
        ids=["steps", "noise", "delta", "rate", "another mechanism"],
    )
    def test_more_of_anything_spends_more(self, rate, rising):
        spent = [self.epsilon(events, delta) for events, delta in rising(rate)]
        assert all(less < more for less, more in pairwise(spent))

    def test_order_and_grouping_do_not_matter(self):
        split = [
            event(steps=3),
            event(1.0, 9.0),
            event(0.02, steps=5),
            event(steps=7),
            event(1.0, 4.0),
            event(0.3, 4.0),
        ]
        joined = [event(0.3, 4.0), event(1.0, 4.0), event(0.02, steps=5), event(1.0, 9.0), event(steps=10)]
        assert self.epsilon(split) == self.epsilon(joined) == self.epsilon(reversed(split))

    @pytest.mark.parametrize("point", POINTS)
    def test_the_result_is_a_number(self, point):
        epsilon = self.epsilon([event(*point)])
        assert type(epsilon) is float
        assert 0 < epsilon < math.inf

    @pytest.mark.parametrize(
        ("events", "delta"),
        [
            ([event(1.0, 1e-3, 10**9)], DELTA),
            ([event(0.5, 1e-3)], DELTA),
            ([event(0.5, 0.01)], DELTA),
            ([event(0.01, 1.0, 10**10)], DELTA),
            ([event(1e-9, 1.0, 1)], DELTA),
            ([event(1.0, 1e6, 1)], DELTA),
            ([event()], 0.999),
            ([event()], 1e-14),
            ([event()], 1e-300),
        ],
    )
    def test_at_the_edges_it_gives_a_bound_or_raises(self, events, delta):
        try:
            epsilon = self.epsilon(events, delta)
        except Exception:  # noqa: BLE001 - as a claim does
            return  # whatever a numerical library raises; the next accountant is asked
        assert 0 <= epsilon < math.inf

    @pytest.mark.parametrize(
        "bad",
        [
            event(rate=0.0),
            event(rate=1.1),
            event(rate=math.nan),
            event(noise=0.0),
            event(noise=math.inf),
            event(noise=math.nan),
            event(steps=-1),
        ],
    )
    def test_events_outside_of_the_mechanism_are_refused(self, bad):
        with pytest.raises(PrivacySpecError, match="not a Poisson-sampled Gaussian"):
            self.epsilon([event(), bad])

    @pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
    def test_delta_is_a_probability(self, delta):
        with pytest.raises(PrivacySpecError, match="delta"):
            self.epsilon([event()], delta)

    @pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (50.0, 500), (3.0, 20), (0.5, 1), (200.0, 10)])
    def test_without_sampling_it_bounds_the_exact_gaussian(self, noise, steps):
        exact = gaussian(noise, steps, DELTA)
        assert exact <= self.epsilon([event(1.0, noise, steps)]) <= exact * self.relative + self.absolute

    def test_gaussians_of_different_noise_are_one_gaussian(self):
        exact = gaussian((10 / 3.0**2 + 5 / 2.0**2) ** -0.5, 1, DELTA)
        assert exact <= self.epsilon([event(1.0, 3.0, 10), event(1.0, 2.0, 5)]) <= exact * self.relative + self.absolute

    def test_an_accountant_that_starts_anew_each_round_understates(self):
        # What Flower's example does: the epsilon of the last round, for ever.
        rounds = [event(0.05, 1.0, 20)] * 10
        anew = [self.epsilon([each]) for each in rounds]
        assert self.epsilon(rounds) > 2 * max(anew)


def skellam(rate=0.1, noise=1.0, steps=10, l2=50_000, l1=10**6, values=10_000):
    variance = round((noise * l2) ** 2)
    return SampledSkellam(sampling_rate=rate, variance=variance, l2=l2, l1=l1, values=values, steps=steps)


class MixedContract(AccountantContract):
    """The suite of accountants that compose integer noise too, alone and beside Gaussian noise."""

    @pytest.mark.parametrize("rate", [0.1, 1.0])
    @pytest.mark.parametrize(
        "rising",
        [
            lambda rate: [([skellam(rate, steps=steps)], DELTA) for steps in (1, 2, 5, 10)],
            lambda rate: [([skellam(rate, noise=noise)], DELTA) for noise in (5.0, 2.0, 1.0, 0.7)],
            lambda rate: [([skellam(rate)], delta) for delta in (1e-3, 1e-5, 1e-7)],
            lambda rate: [([skellam(rate / 2)], DELTA), ([skellam(rate)], DELTA)],
            lambda rate: [([replace(skellam(rate), l2=l2)], DELTA) for l2 in (40_000, 50_000, 60_000)],
            lambda rate: [([skellam(rate)], DELTA), ([skellam(rate), skellam(0.05, 3.0)], DELTA)],
            lambda rate: [([skellam(rate)], DELTA), ([skellam(rate), event(0.05, 3.0)], DELTA)],
            lambda rate: [([event(rate)], DELTA), ([skellam(0.05, 3.0), event(rate)], DELTA)],
        ],
        ids=["steps", "noise", "delta", "rate", "l2", "another mechanism", "Gaussian noise too", "integer noise too"],
    )
    def test_more_of_anything_of_integer_noise_spends_more(self, rate, rising):
        spent = [self.epsilon(events, delta) for events, delta in rising(rate)]
        assert all(less < more for less, more in pairwise(spent))

    def test_order_and_grouping_of_mixed_noise_do_not_matter(self):
        split = [skellam(steps=3), event(1.0, 9.0), skellam(steps=4), event(1.0, 4.0), event(), skellam(1.0, 9.0)]
        joined = [event(1.0, 4.0), skellam(1.0, 9.0), event(), event(1.0, 9.0), skellam(steps=7)]
        assert self.epsilon(split) == self.epsilon(joined) == self.epsilon(reversed(split))

    def test_no_steps_of_integer_noise_spend_nothing(self):
        assert self.epsilon([skellam(steps=0)]) == 0.0
        assert self.epsilon([skellam(steps=0), event()]) == self.epsilon([event()])

    @pytest.mark.parametrize("wrong", [{"variance": 0}, {"l2": 0}, {"sampling_rate": 0.0}, {"l1": 1}, {"steps": -1}])
    def test_what_is_no_integer_noise_is_refused(self, wrong):
        with pytest.raises(PrivacySpecError, match="not a Poisson-sampled Skellam"):
            self.epsilon([event(), replace(skellam(), **wrong)])

    @pytest.mark.parametrize(
        ("events", "delta"),
        [
            ([skellam(1.0, 0.01)], DELTA),
            ([skellam(0.5, 0.01, 10**6)], DELTA),
            ([skellam(1e-7, 1e4, 1)], DELTA),
            ([skellam(0.1, 1.0, 10**6)], DELTA),
            ([skellam(0.1, 1.0, l2=1, l1=1)], DELTA),
            ([skellam(0.1, 0.05, l2=20, l1=20)], DELTA),
            ([skellam(0.1, 50.0, l2=10**6)], DELTA),
            ([skellam(values=2**53 - 1)], DELTA),
            ([skellam()], 0.999),
            ([skellam()], 1e-14),
            ([skellam()], 1e-300),
            ([skellam(), event(0.5, 0.01)], DELTA),
        ],
    )
    def test_at_the_edges_of_integer_noise_it_gives_a_bound_or_raises(self, events, delta):
        try:
            epsilon = self.epsilon(events, delta)
        except Exception:  # noqa: BLE001 - as above
            return
        assert 0 <= epsilon < math.inf

    @pytest.mark.parametrize("point", [(0.01, 1.0, 300), (0.2, 2.0, 10), (1.0, 8.0, 30), (0.02, 20.0, 50)])
    def test_on_a_fine_grid_it_spends_about_what_gaussian_noise_does(self, point):
        alone = self.epsilon([event(*point)])
        assert self.epsilon([skellam(*point)]) == pytest.approx(alone, rel=2e-3)
        assert self.epsilon([skellam(*point), event(*point)]) == pytest.approx(
            self.epsilon([event(point[0], point[1], 2 * point[2])]), rel=3e-3
        )


class TestPld(AccountantContract):
    accountant = PldAccountant()
    relative, absolute = 1.0, 1e-4

    @pytest.mark.parametrize(("point", "expected"), [(LONG, 6.188), (MNIST, 2.382), (WHOLE, 1.760)])
    def test_reference_values(self, point, expected):
        assert self.epsilon([event(*point)]) == pytest.approx(expected, abs=1e-3)


class TestGaussianPld(MixedContract):
    accountant = GaussianPldAccountant()
    relative, absolute = 1.0, 1e-4

    def test_noise_whose_distance_delta_cannot_pay_for_is_refused(self):
        with pytest.raises(PrivacySpecError, match="variance 400 in grid steps is not shown to be close"):
            self.epsilon([skellam(l2=20, l1=100)])
        with pytest.raises(PrivacySpecError, match="the noise can differ from what is composed"):
            self.epsilon([skellam(l2=100, l1=1000)])
        with pytest.raises(PrivacySpecError, match="the noise can differ from what is composed"):
            self.epsilon([skellam(1.0, 1.0, 200)])


class TestIntegerRdp(MixedContract):
    accountant = IntegerRdpAccountant()
    relative, absolute = 1.2, 0.01

    def test_the_grid_matters_through_the_l1_norm(self):
        coarse = skellam(l2=20, l1=20)
        spent = [self.epsilon([replace(coarse, l1=l1)]) for l1 in (20, 100, 400)]
        assert all(less < more for less, more in pairwise(spent))

    def test_it_is_no_larger_than_another_of_its_kind_at_whole_orders(self):
        for point in ((0.01, 1.0, 300), (0.2, 2.0, 10), (0.02, 20.0, 50), (1.0, 8.0, 30)):
            other = RdpAccountant().epsilon([event(*point)], DELTA)
            assert self.epsilon([event(*point)]) <= other * 1.03


class TestPrv(MixedContract):
    accountant = PrvAccountant()
    relative, absolute = 1.0, 0.011

    def test_reference_value(self):
        assert self.epsilon([event(*LONG)]) == pytest.approx(6.198, abs=1e-3)


class TestRdp(AccountantContract):
    accountant = RdpAccountant()
    relative, absolute = 1.2, 0.01

    def test_reference_value(self):
        assert self.epsilon([event(*LONG)]) == pytest.approx(6.713, abs=1e-3)


@pytest.mark.parametrize("point", [*POINTS, MNIST])
def test_two_implementations_agree_and_the_ceiling_is_above(point):
    pld, prv, rdp = (
        accountant.epsilon([event(*point)], DELTA) for accountant in (PldAccountant(), PrvAccountant(), RdpAccountant())
    )
    # The second opinion is the upper end of an interval of 0.01.
    assert -1e-3 < prv - pld < 0.0125
    assert pld <= rdp


def test_two_implementations_agree_on_different_mechanisms():
    events = [event(0.05, 1 + number / 10, 20) for number in range(5)] + [event(1.0, 20.0, 3)]
    pld, prv, rdp = (each.epsilon(events, DELTA) for each in (PldAccountant(), PrvAccountant(), RdpAccountant()))
    assert -1e-3 < prv - pld < 0.0125
    assert pld <= rdp


@pytest.mark.parametrize("steps", [10**3, 10**5, 10**6])
def test_the_claim_stays_below_the_ceiling_over_many_steps(steps):
    assert PldAccountant().epsilon([event(0.01, 1.0, steps)], DELTA) <= RdpAccountant().epsilon(
        [event(0.01, 1.0, steps)], DELTA
    )


def test_every_grid_is_an_upper_bound_that_is_looser_by_about_what_is_said():
    finest = PldAccountant().epsilon([event(*LONG)], DELTA)
    for grid in (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2):
        epsilon = PldAccountant(discretization=grid).epsilon([event(*LONG)], DELTA)
        assert finest <= epsilon <= finest + LONG[2] * grid**2 * 0.36


@pytest.mark.parametrize("point", [(0.01, 1.0, 300), (0.2, 2.0, 10), (1.0, 8.0, 30), (0.5, 5.0, 100)])
@pytest.mark.parametrize("l2", [8192, 100_000])
def test_three_accountants_of_integer_noise_stand_as_those_of_gaussians(point, l2):
    events = [skellam(*point, l2=l2), event(0.05, 2.0, 10)]
    mine, other, most = (bound(events, DELTA) for bound in (claim, second_opinion, ceiling))
    assert [each.accountant for each in (mine, other, most)] == [
        "dp-accounting PLD of close Gaussians, pessimistic",
        "Opacus PRV, upper end",
        "fedtrain RDP at whole orders",
    ]
    assert [each.note for each in (mine, other, most)] == [None] * 3
    assert -0.005 < other.epsilon - mine.epsilon < 0.0125
    assert mine.epsilon < most.epsilon


def test_on_a_coarse_grid_the_claim_is_that_of_divergences_and_says_why():
    events = [skellam(0.05, 1.0, 30, l2=20, l1=200)]
    mine, other = claim(events, DELTA), second_opinion(events, DELTA)
    assert mine.accountant == "fedtrain RDP at whole orders"
    assert "variance 400 in grid steps is not shown to be close to a Gaussian" in mine.note
    assert (other.accountant, other.note) == ("Opacus PRV, upper end", None)
    assert other.epsilon < mine.epsilon < 1.3 * other.epsilon


def test_a_ledger_of_gaussian_noise_alone_is_accounted_for_as_before():
    assert claim([event()], DELTA).epsilon == PldAccountant().epsilon([event()], DELTA)
    assert ceiling([event()], DELTA).epsilon == RdpAccountant().epsilon([event()], DELTA)
