"""Plans of shared noise that cannot be: each is refused with the arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from fedtrain.config import from_flat
from fedtrain.errors import ClientError, ConfigError, PrivacySpecError
from fedtrain.privacy import epsilon_of
from fedtrain.privacy.mechanisms import mechanism_of, mechanism_of_plan
from fedtrain.privacy.noise import SecureSource, SeededSource
from fedtrain.privacy.shares import LARGEST_COHORT, NoiseShares, grid_of, least_threshold, most_bits
from fedtrain.privacy.whole_numbers import with_share
from fedtrain.secagg import Parameters
from fedtrain.secagg.graph import LARGEST_COMPLETE, default_threshold

SHARES = NoiseShares(members=10, threshold=7, colluders=1, bits=22, reach=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colluders": 7}, r"threshold = 7 less privacy.colluders = 7 leaves 0 shares of noise that are sure"),
        ({"colluders": 9}, r"threshold = 7 less privacy.colluders = 9 leaves -2 shares"),
        ({"threshold": 6}, r"a threshold of 6 cannot be used in a cohort of 10: 7 to 10 are allowed"),
        ({"threshold": 11}, r"a threshold of 11 cannot be used in a cohort of 10: 7 to 10 are allowed"),
        ({"members": 201, "threshold": 134}, r"distributed noise takes a cohort of 2 to 200, and this has 201"),
        ({"members": 1, "threshold": 1, "colluders": 0}, r"takes a cohort of 2 to 200, and this has 1"),
        ({"bits": 29}, r"bits = 29 cannot be used: the sum of 10 numbers .* in 32 bits, so 2 to 28 bits are allowed"),
        (
            {"bits": 12},
            r"bits = 12 is too small a modulus: .* sum is up to 2048 and its share .* 12 bits hold 2047; it takes 13 ",
        ),
        (
            {"bits": 12, "members": 200, "threshold": 134, "reach": 200_000},
            r"it takes 25 bits or more, and a cohort of fewer than 200 for them$",
        ),
    ],
)
def test_shares_that_cannot_be_are_refused(changes, message):
    with pytest.raises(PrivacySpecError, match=message):
        grid_of(replace(SHARES, **changes), 1.0)


def test_a_share_below_two_grid_steps_is_refused():
    shares = NoiseShares(members=200, threshold=200, colluders=0, bits=9, reach=2)
    with pytest.raises(PrivacySpecError, match=r"standard deviation of 1\.4 grid steps, that of 0\.3 clipping norms"):
        grid_of(shares, 0.3)


def test_limits_are_those_of_secure_aggregation():
    assert LARGEST_COHORT == LARGEST_COMPLETE
    for members in range(3, LARGEST_COHORT + 1):
        assert least_threshold(members) == default_threshold(members - 1)
        fits = {"members": members, "length": 1, "bound": 1.0}
        assert Parameters.plan(**fits, bits=most_bits(members)).largest == (1 << (most_bits(members) - 1)) - 1
        with pytest.raises(ConfigError, match="bits cannot be used"):
            Parameters.plan(**fits, bits=most_bits(members) + 1)


def test_a_vector_that_is_longer_than_the_plan_counts_on_is_refused():
    grid = grid_of(replace(SHARES, bits=14), 1.0)
    values = {"w": np.zeros(grid.values + 1)}
    with pytest.raises(PrivacySpecError, match=rf"has {grid.values + 1} numbers that are trained, .* {grid.values}:"):
        with_share(values, grid, clip_norm=1.0, source=SeededSource(0))


def test_a_sum_that_is_not_finite_is_not_sent():
    with pytest.raises(ClientError, match="the sum of w is not finite; nothing is sent"):
        with_share({"w": np.array([1.0, np.nan])}, grid_of(SHARES, 1.0), clip_norm=1.0, source=SeededSource(0))


class Still(SeededSource):
    """A source that gives the same word again and again, as a broken generator may."""

    def streams(self, count):
        return [self]

    def words(self, count):
        return np.zeros(count, dtype=np.uint64)


def test_noise_that_is_none_is_not_sent():
    with pytest.raises(ClientError, match="does not have the deviation of the plan"):
        with_share({"w": np.zeros(2000)}, grid_of(SHARES, 1.0), clip_norm=1.0, source=Still(0))


def test_survivors_of_a_round_leave_at_least_the_promised_noise():
    """Of ten clients three are lost, the most that a sum allows, and one of the rest colludes, in every round."""
    grid, source, rounds, values = grid_of(replace(SHARES, bits=16), 1.0), SecureSource(), 60, 120
    signal = {"w": np.linspace(-1, 1, values)}
    exact = np.rint(signal["w"] * grid.steps).astype(np.int64)
    left = []
    for _ in range(rounds):
        sent = [with_share(signal, grid, clip_norm=1.0, source=source)["w"].astype(np.int64) for _ in range(7)]
        left.append(sum(sent[1:]) - 6 * exact)
    # The noise of 7,200 values: its variance is known to 1.7 %, and 8 of these deviations are a chance below 1e-14.
    measured = float(np.var(left))
    assert abs(measured / grid.variance - 1) < 8 * (2 / (rounds * values)) ** 0.5
    assert abs(np.mean(left)) < 8 * (grid.variance / (rounds * values)) ** 0.5


SETTINGS = {
    "federation.clients": 10,
    "federation.cohort": 10,
    "federation.rounds": 5,
    "privacy.mode": "record",
    "privacy.trust": "distributed",
    "privacy.colluders": 0,
    "privacy.sampling_rate": 0.1,
    "privacy.delta": 1e-4,
}


def plan(changes):
    experiment = from_flat(SETTINGS | changes)
    return mechanism_of(experiment).plan(experiment)


LOCAL = {"privacy.trust": "local", "privacy.colluders": "", "training.local_steps": 1}


def test_the_least_noise_keeps_the_budget_of_a_trusted_server_and_not_of_each_client():
    """Seven shares together are as much noise as one client adds that shares it with nobody, and a per cent more."""
    local, shared = plan(LOCAL), plan({})
    assert shared.noise_multiplier == pytest.approx(local.noise_multiplier, rel=0.02)
    one, other = (mechanism_of_plan(made).deviation(made, 10) for made in (local, shared))
    # A cohort of 10 has 10 shares of a seventh of the variance, in the place of 10 times all of it.
    assert other / one == pytest.approx(7**-0.5, rel=0.05)


def test_rounding_noise_up_to_a_coarser_grid_does_not_break_the_budget():
    """At noise multiplier 1.373 the grid has half the steps that it has just below, and Skellam noise spends more."""
    tight = {
        "federation.clients": 1000,
        "federation.cohort": 20,
        "federation.rounds": 1,
        "privacy.mode": "client",
        "privacy.sampling_rate": "",
        "privacy.cohorts": "capped",
        "privacy.epsilon": 2.661855,
        "transport.secagg.threshold": 20,
        "transport.secagg.bits": 11,
    }
    made = plan(tight)
    event = mechanism_of_plan(made).event(made, 1)
    assert epsilon_of([event], 1e-4) <= 2.661855
    rounded = replace(made, noise_multiplier=1.373)
    assert rounded.noise_multiplier > made.noise_multiplier
    assert rounded.grid.steps < made.grid.steps
    assert epsilon_of([mechanism_of_plan(rounded).event(rounded, 1)], 1e-4) > 2.68


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(PrivacySpecError, match=r"transport.secagg.bits = 12 is too small a modulus"):
        plan({"transport.secagg.bits": 12})


def test_masks_with_some_of_the_others_alone_are_refused():
    assert plan({"transport.secagg.neighbours": 9}) == plan({})
    with pytest.raises(PrivacySpecError, match=r"neighbours = 8 is not for shared noise: .* with all 9 others"):
        plan({"transport.secagg.neighbours": 8})


def test_a_plan_without_shares_has_no_grid_and_one_with_shares_no_gaussian():
    with pytest.raises(PrivacySpecError, match="shares no noise"):
        _ = plan(LOCAL).grid
    with pytest.raises(PrivacySpecError, match="for its mechanism to say"):
        plan({}).event(1)
