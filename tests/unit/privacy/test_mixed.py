"""Compositions of integer noise, against a composition that shares no code and no rounding."""

import json
import sys
from pathlib import Path

import pytest

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import PrivacySpec, SampledGaussian, SampledSkellam, calibrate, ceiling, claim, epsilon_of
from fedtrain.privacy.accounting.mixed import GaussianPldAccountant, IntegerRdpAccountant
from tests.composition import sampled_gaussian
from tests.skellam import losses, reach_of

DELTAS = (1e-3, 1e-5, 1e-7)
TRUTHS = json.loads((Path(__file__).parents[2] / "vectors/epsilons_skellam.json").read_bytes())


@pytest.fixture(autouse=True)
def large_numbers():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


def event(rate, variance, l2, steps, values=1):
    return SampledSkellam(sampling_rate=rate, variance=variance, l2=l2, l1=l2, values=values, steps=steps)


@pytest.mark.parametrize("case", TRUTHS, ids=lambda case: f"{case['variance']}-{case['steps']}")
@pytest.mark.parametrize("delta", DELTAS)
def test_a_claim_is_not_below_the_truth(case, delta):
    # All on one coordinate: one of the contributions that the event allows.
    spent = event(case["sampling_rate"], case["variance"], case["l2"], case["steps"])
    least, most = case["epsilon"][f"{delta:g}"], 1.25 if case["variance"] >= 400 else 5
    assert least <= claim([spent], delta).epsilon <= least * most
    assert least <= IntegerRdpAccountant().epsilon([spent], delta)


@pytest.mark.parametrize(
    "case", [case for case in TRUTHS if case["variance"] >= 40_000], ids=lambda case: case["steps"]
)
def test_a_bound_by_a_close_gaussian_is_not_below_the_truth(case):
    # Delta is so large that it can pay for so coarse a grid.
    spent = event(case["sampling_rate"], case["variance"], case["l2"], case["steps"])
    least = case["epsilon"]["0.001"]
    assert least <= GaussianPldAccountant().epsilon([spent], 1e-3) <= least * 1.08


@pytest.mark.parametrize(
    ("rate", "noise", "tight", "loose"),
    [(0.01, 0.7, 3.084, 3.867), (0.04, 1, 4.564, 5.159), (0.05, 2, 1.929, 2.119), (0.2, 8, 1.723, 1.880)],
)
def test_reference_values(rate, noise, tight, loose):
    typical = SampledSkellam(
        sampling_rate=rate,
        variance=round((40_000 * noise) ** 2),
        l2=40_000,
        l1=15_748_016,
        values=155_000,
        steps=300,
    )
    mine = claim([typical], 1e-5)
    assert (mine.epsilon, mine.note) == (pytest.approx(tight, abs=1e-3), None)
    assert ceiling([typical], 1e-5).epsilon == pytest.approx(loose, abs=1e-3)
    gaussian = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=300)
    assert claim([gaussian], 1e-5).epsilon < mine.epsilon < claim([gaussian], 1e-5).epsilon * 1.001


@pytest.mark.parametrize("added", [False, True])
def test_the_truth_is_computed_again(added):
    case = TRUTHS[0]
    rate, variance, l2, steps = (case[name] for name in ("sampling_rate", "variance", "l2", "steps"))
    again = losses(variance, l2, rate, 1e-3, reach_of(variance, l2), added=added).repeated(steps, (-12.0, 24.0))
    for delta in DELTAS:
        known = case["epsilon"][f"{delta:g}"]
        assert again.epsilon(delta) < known if added else again.epsilon(delta) == pytest.approx(known, rel=1e-8)


def test_a_claim_of_mixed_noise_is_not_below_the_truth():
    window, grid = (-8.0, 16.0), 5e-3
    integer = losses(400, 20, 0.2, grid, reach_of(400, 20)).repeated(6, window)
    truth = sampled_gaussian(0.1, 1.0, grid).repeated(8, window).compose(integer, window)
    events = [event(0.2, 400, 20, 6), SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=8)]
    for delta in DELTAS:
        assert truth.epsilon(delta) <= claim(events, delta).epsilon <= truth.epsilon(delta) * 1.4


@pytest.mark.parametrize(
    "wrong",
    [event(0.2**2, 9, 3, 20), event(0.2, 18, 3, 20), event(0.2, 9, 3, 5), event(0.2, 9, 2, 20)],
    ids=["the rate squared", "twice the variance", "a quarter of the steps", "l2 rounded down"],
)
def test_wrong_events_are_below_the_truth(wrong):
    truth = losses(9, 3, 0.2, 1e-3, reach_of(9, 3)).repeated(20, (-12.0, 24.0)).epsilon(1e-5)
    assert IntegerRdpAccountant().epsilon([wrong], 1e-5) < truth


def spec(**fields):
    return PrivacySpec(
        **{
            "unit": "record",
            "neighbouring": "add or remove one record",
            "epsilon": 3.0,
            "delta": 1e-5,
            "clip_norm": 1.0,
            "sampling_rate": 0.05,
            "divisor": 50,
            "population": 1000.0,
            "steps_per_round": 1,
            "rounds": 100,
            **fields,
        }
    )


def on_a_grid(noise, steps):
    return SampledSkellam(
        sampling_rate=0.05, variance=round((noise * 8192) ** 2), l2=8192, l1=10**6, values=10_000, steps=steps
    )


def test_the_least_integer_noise_is_found():
    plan = calibrate(spec(), kind="integers", event_of=on_a_grid)
    assert plan.kind == "integers"
    assert epsilon_of([on_a_grid(plan.noise_multiplier, 100)], 1e-5) <= 3.0
    assert epsilon_of([on_a_grid(plan.noise_multiplier * 0.99, 100)], 1e-5) > 3.0
    gaussian = calibrate(spec())
    assert gaussian.noise_multiplier <= plan.noise_multiplier <= gaussian.noise_multiplier * 1.005
    again = calibrate(spec(), noise_multiplier=plan.noise_multiplier, kind="integers", event_of=on_a_grid)
    assert again == plan


def test_integer_noise_that_is_given_has_to_keep_the_budget():
    with pytest.raises(PrivacySpecError, match="spends epsilon 5"):
        calibrate(spec(), noise_multiplier=0.8, event_of=on_a_grid)
    with pytest.raises(PrivacySpecError, match="cannot be bounded"):
        calibrate(spec(sampling_rate=1.0, divisor=1000), noise_multiplier=0.3, event_of=whole_on_a_grid)


def whole_on_a_grid(noise, steps):
    return SampledSkellam(
        sampling_rate=1.0, variance=round((noise * 8192) ** 2), l2=8192, l1=10**6, values=10_000, steps=steps
    )


def test_noise_that_has_no_bound_is_too_little():
    plan = calibrate(spec(sampling_rate=1.0, divisor=1000), event_of=whole_on_a_grid)
    assert plan.noise_multiplier > 10
    assert epsilon_of([whole_on_a_grid(plan.noise_multiplier, 100)], 1e-5) <= 3.0
