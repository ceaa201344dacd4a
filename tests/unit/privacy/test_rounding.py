"""No claim is below the truth, and what rounding can do is no more than is said."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import exp, mpf
from scipy import fft

from fedtrain.privacy import COARSE, SampledGaussian, ceiling, claim, second_opinion
from fedtrain.privacy.accounting import rounding
from fedtrain.privacy.accounting.pld import PldAccountant
from fedtrain.privacy.accounting.rdp import RdpAccountant
from tests.composition import Losses, hockey_stick, sampled_gaussian

KNOWN = json.loads((Path(__file__).parents[2] / "vectors" / "epsilons.json").read_text())
PLD, RDP = PldAccountant.name, RdpAccountant.name


def event(rate, noise, steps):
    return SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)


def mechanism(known):
    return event(known["sampling_rate"], known["noise_multiplier"], known["steps"])


def name(known):
    return f"{known['sampling_rate']:g}, {known['noise_multiplier']:g}, {known['steps']}"


@pytest.mark.parametrize("known", KNOWN, ids=name)
def test_no_claim_is_below_the_truth_and_none_is_far_above_it(known):
    for delta, least in known["epsilon"].items():
        if known["steps"] == 10**6 and float(delta) > 1e-7:
            continue  # the distribution is at hand there, and takes ten seconds
        found = claim([mechanism(known)], float(delta))
        assert least <= found.epsilon <= ceiling([mechanism(known)], float(delta)).epsilon
        # What is left of the difference to the truth is the grid of the lower bound.
        slack = known["steps"] * known["grid"] ** 2
        assert found.epsilon <= least * (1.02 if found.accountant == PLD else 1.3) + slack + 0.01


def test_the_reference_is_computed_again():
    (known,) = [known for known in KNOWN if name(known) == "0.5, 5, 1"]
    losses = sampled_gaussian(0.5, 5.0, 0.02)
    for delta, least in known["epsilon"].items():
        # A coarser grid lowers the bound, and by little.
        assert 0.97 * least - 0.005 <= losses.epsilon(float(delta)) <= least
    (known,) = [known for known in KNOWN if name(known) == "0.99, 3, 200"]
    repeated = sampled_gaussian(0.99, 3.0, 0.05).repeated(200, (-40.0, 90.0))
    assert 0.97 * known["epsilon"]["1e-12"] <= repeated.epsilon(1e-12) <= known["epsilon"]["1e-12"]


def test_without_a_bound_on_rounding_the_distributions_are_below_the_truth():
    """As dp-accounting composes them; the reason for what this file tests."""
    (known,) = [known for known in KNOWN if name(known) == "0.01, 1, 10000"]
    whole = pld.from_gaussian_mechanism(1.0, value_discretization_interval=1e-4, sampling_prob=0.01).self_compose(
        10_000
    )
    assert whole.get_epsilon_for_delta(1e-12) < known["epsilon"]["1e-12"] - 0.01
    assert claim([mechanism(known)], 1e-12).epsilon > known["epsilon"]["1e-12"]


def exact(probabilities):
    """Return probabilities as whole multiples of 10^-60, which doubles above 10^-40 are to 20 digits."""
    return Losses(1.0, 0, tuple(int(mpf(float(value)) * 10**60) for value in probabilities))


@settings(max_examples=25)
@given(
    st.integers(2, 100),
    st.integers(2, 100),
    st.sampled_from(["flat", "peak", "steep", "two"]),
    st.integers(0, 2**32 - 1),
)
def test_the_error_of_a_composition_is_within_its_bound(points, steps, kind, seed):
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, points)
    shape = {
        "flat": np.ones(points),
        "peak": np.exp(-((np.arange(points) - points / 3) ** 2) / 8),
        "steep": np.exp(-np.arange(points) / 2.0),
        "two": np.eye(points)[0] + np.eye(points)[-1],
    }[kind]
    one = noise * shape / (noise * shape).sum()
    steps = min(steps, 2000 // points + 1)
    lowest, composed = common.self_convolve(one, steps)
    assert lowest == 0
    true = exact(one).repeated(steps, (0.0, float(points * steps))).probabilities
    error = sum(abs(float(mpf(mine) / 10**60 - mpf(float(got)))) for mine, got in zip(true, composed, strict=False))
    bound = rounding.self_composition(
        steps=steps,
        points=rounding.transformed(len(composed)),
        one=float(np.linalg.norm(one)),
        composed=float(np.linalg.norm(composed)),
    )
    assert error <= bound


@given(st.integers(1, 5_000_000))
def test_a_transform_is_no_longer_than_is_said(points):
    assert fft.next_fast_len(points) <= fft.next_fast_len(points, real=True) <= rounding.transformed(points)


@pytest.mark.parametrize(
    ("rate", "noise"), [(1.0, 1.0), (0.01, 1.0), (0.01, 0.5), (1e-7, 0.8), (0.3, 30.0), (1 - 1e-9, 100.0)]
)
def test_a_single_step_is_within_its_bound(rate, noise):
    grid = 1e-3
    one = pld.from_gaussian_mechanism(noise, value_discretization_interval=grid, sampling_prob=rate)
    spread = 8 / noise + 1 / noise**2
    for place in (-4.5, -1.0, -0.3, -0.01, 0.0, 0.003, 0.1, 0.4, 1.0, 3.0):
        epsilon = round(place * spread / 4.5 / grid) * grid
        true = max(hockey_stick(rate, noise, epsilon), hockey_stick(rate, noise, epsilon, added=True))
        share = rounding.of_differences(grid) * (spread + 1) + rounding.summation(20_000)
        assert float(true) <= one.get_delta_for_epsilon(epsilon) * (1 + share) + rounding.CONSTRUCTION


def test_more_steps_never_claim_less_where_the_accountant_changes():
    """The rounding of so many steps is around a tenth of delta."""
    delta, steps = 3e-9, (800, 900, 950, 990, 991, 1000, 1100, 1500)
    found = [claim([event(0.01, 2.0, count)], delta) for count in steps]
    assert {bound.accountant for bound in found} == {PLD, RDP}
    assert all(less.epsilon <= more.epsilon for less, more in pairwise(found))


def test_a_smaller_delta_more_noise_and_a_lower_rate_are_in_order_where_the_accountant_changes():
    def all_of(*mechanisms):
        return [claim([each], delta) for each, delta in mechanisms]

    smaller = all_of(*((event(0.01, 1.0, 800), 10.0**-place) for place in range(5, 14, 2)))
    less = all_of(*((event(0.01, 3.0 - place / 2, 800), 3e-9) for place in range(5)))
    higher = all_of(*((event(10.0**-place, 1.0, 800), 3e-9) for place in (5, 4, 3, 2, 1)))
    for found in (smaller, less, higher):
        assert all(one.epsilon <= other.epsilon for one, other in pairwise(found))
    assert {bound.accountant for bound in smaller} == {PLD, RDP}


EDGES = [
    *((0.01, 1.0, 10_000, delta) for delta in (3.2e-8, 1e-12)),
    (0.01, 0.5, 10_000, 1e-11),
    (1 - 1e-9, 100.0, 10**6, 1e-12),
    (1 - 1e-9, 100.0, 10**5, 2e-7),
    (1.0, 100.0, 10**6, 1e-12),
    (1e-7, 0.3, 10**6, 1e-5),
    (0.5, 0.3, 3, 1e-10),
    (0.1, 1.0, 1, 1e-14),
    (0.1, 1000.0, 100, 1e-9),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), EDGES)
def test_the_claim_is_the_smaller_bound_and_the_accountants_do_not_contradict_each_other(rate, noise, steps, delta):
    """What an audit asks of an honest report: the claim below the ceiling, and not far below the second opinion."""
    spent = [event(rate, noise, steps)]
    found, opinion, most = claim(spent, delta), second_opinion(spent, delta), ceiling(spent, delta)
    assert found.epsilon <= most.epsilon
    assert (found.note is None) is (found.accountant == PLD)
    if found.accountant == RDP:
        assert found.epsilon == most.epsilon
    if opinion.note is None:
        assert found.epsilon >= opinion.epsilon * 0.99 - 0.03
        assert found.note or found.epsilon <= opinion.epsilon * 1.01 + 0.03
    else:
        assert opinion.epsilon == most.epsilon


def test_the_ceiling_is_the_claim_where_a_coarse_grid_is_looser():
    spent = [event(0.002, 30.0, 10**6)]
    found = claim(spent, 1e-5, discretization=1e-2)
    assert (found.accountant, found.note) == (RDP, f"{PLD} gave a larger bound")
    assert found.epsilon < PldAccountant(discretization=1e-2).epsilon(spent, 1e-5)
    assert claim(spent, 1e-5, discretization=COARSE).epsilon <= found.epsilon


def test_a_bound_of_renyi_divergences_is_not_below_the_truth_of_one_gaussian():
    for noise in (0.5, 2.0, 50.0):
        for delta in (1e-5, 1e-12, 1e-30):
            epsilon = RdpAccountant().epsilon([event(1.0, noise, 1)], delta)
            assert hockey_stick(1.0, noise, epsilon) <= delta
            assert hockey_stick(1.0, noise, epsilon) < exp(math.log(delta))
