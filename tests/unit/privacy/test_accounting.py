import math
from itertools import pairwise
from pathlib import Path

import pytest

from fedtrain.config import from_flat
from fedtrain.errors import ConfigError, PrivacySpecError
from fedtrain.privacy import (
    ACCOUNTANT,
    COARSE,
    FINE,
    SampledGaussian,
    ceiling,
    claim,
    epsilon_of,
    second_opinion,
)
from fedtrain.privacy.accounting import first_bound

ROOT = Path(__file__).parents[3]
PLD, PRV, RDP = ACCOUNTANT, "Opacus PRV, upper end", "dp-accounting RDP"


def event(rate=0.01, noise=1.0, steps=100):
    return SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps)


class Gives:
    """An accountant that gives a fixed answer, or raises it."""

    name, version, kinds = "given", "1", frozenset({SampledGaussian.kind})

    def __init__(self, answer):
        self.answer = answer

    def epsilon(self, events, delta):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "expected"),
    [(0.01, 1.0, 10000, 6.188), (256 / 60000, 1.1, 14062, 2.382), (1.0, 50.0, 500, 1.760)],
)
def test_reference_values(rate, noise, steps, expected):
    assert epsilon_of([event(rate, noise, steps)], 1e-5) == pytest.approx(expected, abs=1e-3)


def test_each_bound_says_where_it_is_from():
    bounds = [bound([event()], 1e-5) for bound in (claim, second_opinion, ceiling)]
    assert [bound.accountant for bound in bounds] == [PLD, PRV, RDP]
    assert [bound.note for bound in bounds] == [None, None, None]
    assert all(bound.version[0].isdigit() for bound in bounds)
    assert bounds[0].epsilon == epsilon_of([event()], 1e-5)


@pytest.mark.parametrize(
    ("hopeless", "delta", "why"),
    [
        (event(0.5, 1e-3, 10), 1e-5, "the privacy loss of one step reaches 5.1e"),
        (event(1.0, 0.01, 1), 1e-5, "the privacy loss of one step reaches 6e"),
        (event(0.01, 1.0, 10**10), 1e-5, "that of all varies by"),
        (
            event(0.1, 1.0, 10),
            1e-13,
            "the rounding of 10 steps on a grid of 0.0001 can be 2.7e-12, which is not small against delta 1e-13",
        ),
        (event(0.1, 1.0, 10), 1e-300, "which is not small against delta 1e-300"),
        (event(0.01, 1.0, 10_000), 1e-9, "the rounding of 10000 steps"),
    ],
)
def test_what_the_distribution_cannot_hold_falls_back_to_the_ceiling_and_says_so(hopeless, delta, why):
    bound = claim([hopeless], delta)
    assert bound.accountant == RDP
    assert bound.note.startswith(f"{PLD} gave no bound: ")
    assert why in bound.note
    assert bound.epsilon == ceiling([hopeless], delta).epsilon
    assert 0 < bound.epsilon < math.inf


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([event(0.5, 0.05, 10)], "epsilon inf"),
        ([event(1.0, 0.01, 1)], "Discrete mean differs"),
        ([event(0.01, 1.0, 10**6)], "points of the privacy loss"),
        ([event(0.01, 20 + number / 10, 1) for number in range(51)], "51 different mechanisms"),
    ],
)
def test_the_second_opinion_falls_back_to_the_ceiling_and_says_so(events, why):
    bound = second_opinion(events, 1e-5)
    assert bound.accountant == RDP
    assert why in bound.note
    assert bound.epsilon == ceiling(events, 1e-5).epsilon


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -0.1, ValueError("domain"), MemoryError()])
def test_no_answer_that_is_not_a_bound_passes(wrong):
    bound = first_bound((Gives(wrong), Gives(3.0)), [event()], 1e-5)
    assert (bound.epsilon, bound.accountant) == (3.0, "given")
    expected = {ValueError: "domain", MemoryError: "MemoryError"}.get(type(wrong), f"epsilon {wrong}")
    assert bound.note == f"given gave no bound: {expected}"
    with pytest.raises(PrivacySpecError, match=r"cannot be bounded: given gave no bound: .*; given gave no bound: "):
        first_bound((Gives(wrong), Gives(math.nan)), [event()], 1e-5)


def test_bad_input_is_not_a_reason_to_fall_back():
    for bound in (claim, second_opinion, ceiling):
        with pytest.raises(PrivacySpecError, match="not a Poisson-sampled Gaussian"):
            bound([event(noise=0.0)], 1e-5)
        with pytest.raises(PrivacySpecError, match="delta"):
            bound([event()], 1.0)


def test_no_approximation_by_the_central_limit_can_be_chosen():
    modules = {file.stem for file in (ROOT / "fedtrain/privacy/accounting").glob("*.py")}
    assert modules == {
        "__init__",
        "base",
        "bounds",
        "gaussian_loss",
        "integers",
        "mixed",
        "pld",
        "prv",
        "rdp",
        "rounding",
        "skellam_loss",
    }
    with pytest.raises(ConfigError, match="unknown key"):
        from_flat({"privacy.mode": "record", "privacy.sampling_rate": 0.1, "privacy.accountant": "gdp"})
    # mu of the approximation (Bu et al. 2020) for a case where it is below the truth.
    rate, noise, steps = 0.01, 0.6, 100
    mu = rate * math.sqrt(steps * (math.exp(1 / noise**2) - 1))
    approximated = ceiling([event(1.0, 1 / mu, 1)], 1e-5).epsilon
    assert claim([event(rate, noise, steps)], 1e-5).epsilon > 1.2 * approximated


def test_the_coarse_bound_is_never_the_smaller_one():
    assert epsilon_of([event()], 1e-5, discretization=COARSE) >= epsilon_of([event()], 1e-5)


@pytest.mark.parametrize("count", [4, 50, 100])
def test_another_mechanism_never_spends_less_where_the_grid_changes(count):
    events = [event(0.05, 2 + number / 1000, 1) for number in range(count + 1)]
    assert epsilon_of(events[:count], 1e-5) < epsilon_of(events, 1e-5)


def test_a_grid_between_the_known_ones_is_used():
    fine, odd, coarse = (epsilon_of([event()], 1e-5, discretization=grid) for grid in (FINE, 7e-4, COARSE))
    assert fine <= odd <= coarse


def test_two_hundred_different_rounds_are_bounded():
    # What they cost is measured by benchmarks/accounting.py.
    rounds = [event(0.05, 1 + number / 100, 20) for number in range(200)]
    epsilon = epsilon_of(rounds, 1e-5)
    # One mechanism that is milder than each of them, and one that is worse, on the fine grid.
    assert epsilon_of([event(0.05, 2.99, 4000)], 1e-5) < epsilon < epsilon_of([event(0.05, 1.0, 4000)], 1e-5)


@pytest.mark.parametrize(
    "rounds",
    [
        [event(0.05, 1.0, 20)] * 30,
        [event(0.05, 1 + number % 6 / 10, 20) for number in range(30)],
        [event(1.0, 9.0 + number % 2, 1) for number in range(10)],
        [event(1.0 if number % 2 else 0.1, 8.0, number) for number in range(8)],
    ],
)
def test_a_claim_grows_with_each_round(rounds):
    numbers = range(1, len(rounds) + 1)
    found = [epsilon_of(rounds[:number], 1e-5, discretization=COARSE) for number in numbers]
    assert all(less <= more for less, more in pairwise(found))


def test_what_is_refused_is_not_remembered_as_nothing():
    with pytest.raises(PrivacySpecError, match="not a Poisson"):
        epsilon_of([event(steps=5), event(steps=-5)], 1e-5)


def test_nothing_spends_nothing():
    for bound in (claim, second_opinion, ceiling):
        assert bound([], 1e-5).epsilon == bound([event(steps=0)], 1e-5).epsilon == 0.0
