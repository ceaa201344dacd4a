"""The banded inverse square root: its matrix, how far a client moves it, and what it does to the noise in a model."""

import itertools
from math import comb, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.errors import PrivacySpecError, RunError
from fedtrain.privacy import epsilon_of
from fedtrain.privacy.correlated_noise import CorrelatedNoise
from fedtrain.privacy.correlation import (
    MOST_ROUNDS,
    Correlation,
    errors,
    inflation,
    inverse_column,
    inverted,
    mean_error,
    round_spread,
    squared_sensitivities,
)
from fedtrain.privacy.events import SampledGaussian
from fedtrain.privacy.noise import SecureSource, SeededSource, open_source
from fedtrain.seeding import derive_seed

CPU = torch.device("cpu")


def toeplitz(column, rounds):
    """Give the lower triangular matrix with a column, entry by entry."""
    return np.array(
        [
            [column[row - place] if 0 <= row - place < len(column) else 0.0 for place in range(rounds)]
            for row in range(rounds)
        ]
    )


def patterns(rounds, separation, count):
    """Give every way to take part in so many rounds, so far apart."""
    for taken in itertools.combinations(range(rounds), count):
        if all(after - before >= separation for before, after in itertools.pairwise(taken)):
            yield list(taken)


def strategy(correlation):
    """Give C by another way: the inverse of the banded matrix, by numpy."""
    return np.linalg.inv(toeplitz(inverse_column(correlation.bands), correlation.rounds))


@st.composite
def correlations(draw, largest=11):
    rounds = draw(st.integers(2, largest))
    separation = draw(st.integers(2, rounds))
    return Correlation(rounds=rounds, separation=separation, bands=draw(st.integers(1, rounds)))


def test_the_square_of_the_unbanded_matrix_adds_up_rounds():
    rounds = 30
    root = toeplitz(inverted(inverse_column(rounds), rounds), rounds)
    assert np.allclose(root @ root, np.tri(rounds), atol=1e-12)
    # Its column is known: binomial(2k, k) / 4^k (Kalinin and Lampert 2024, section 3).
    assert np.allclose(root[:, 0], [comb(2 * k, k) / 4**k for k in range(rounds)], rtol=1e-13)


@settings(max_examples=60, deadline=None)
@given(correlations(40))
def test_the_column_is_that_of_the_inverse_and_falls(correlation):
    column = inverted(inverse_column(correlation.bands), correlation.rounds)
    assert np.allclose(toeplitz(column, correlation.rounds), strategy(correlation), atol=1e-12)
    assert (column > 0).all() or correlation.bands == 1
    assert (np.diff(column) <= 0).all()


@settings(max_examples=60, deadline=None)
@given(correlations())
def test_the_sensitivity_is_that_of_the_worst_of_all_participations(correlation):
    matrix, most = strategy(correlation), correlation.most_participations
    column = inverted(inverse_column(correlation.bands), correlation.rounds)
    found = squared_sensitivities(column, separation=correlation.separation, participations=most)
    assert len(found) == most
    for count in range(1, most + 1):
        worst = max(
            float(np.linalg.norm(matrix[:, taken].sum(axis=1)) ** 2)
            for taken in patterns(correlation.rounds, correlation.separation, count)
        )
        assert found[count - 1] == pytest.approx(worst, rel=1e-12)
    assert not list(patterns(correlation.rounds, correlation.separation, most + 1))


@settings(max_examples=40, deadline=None)
@given(correlations(9), st.integers(0, 2**32 - 1))
def test_no_direction_of_updates_moves_it_further(correlation, seed):
    """Each round a client adds any vector of norm 1: what it moves is the Frobenius norm of C times its rows."""
    matrix, most = strategy(correlation), correlation.most_participations
    generator = np.random.default_rng(seed)
    column = inverted(inverse_column(correlation.bands), correlation.rounds)
    found = squared_sensitivities(column, separation=correlation.separation, participations=most)
    for count in range(1, most + 1):
        for taken in patterns(correlation.rounds, correlation.separation, count):
            rows = np.zeros((correlation.rounds, 3))
            added = generator.normal(size=(count, 3))
            rows[taken] = added / np.linalg.norm(added, axis=1, keepdims=True)
            assert np.linalg.norm(matrix @ rows) ** 2 <= found[count - 1] * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(correlations(60), st.data())
def test_shares_pay_for_any_number_of_participations(correlation, data):
    most = data.draw(st.integers(1, correlation.most_participations))
    column = inverted(inverse_column(correlation.bands), correlation.rounds)
    found = squared_sensitivities(column, separation=correlation.separation, participations=most)
    paid = inflation(correlation, most) ** 2 * np.arange(1, most + 1)
    assert (found <= paid).all()
    assert (found >= paid * (1 - 1e-9)).any()


@pytest.mark.parametrize(("rounds", "separation"), [(18, 6), (60, 5), (200, 20), (1000, 10)])
def test_all_shares_cost_what_one_gaussian_mechanism_costs(rounds, separation):
    correlation = Correlation.of(rounds=rounds, separation=separation)
    most, noise = correlation.most_participations, 0.6 * sqrt(-(-rounds // separation))
    shares = SampledGaussian(sampling_rate=1.0, noise_multiplier=noise, steps=most)
    single = SampledGaussian(sampling_rate=1.0, noise_multiplier=noise / sqrt(most), steps=1)
    column = inverted(inverse_column(correlation.bands), rounds)
    whole = squared_sensitivities(column, separation=separation, participations=most)[-1]
    happened = SampledGaussian(
        sampling_rate=1.0, noise_multiplier=noise * inflation(correlation, most) / sqrt(whole), steps=1
    )
    delta = 1e-5
    charged, one, true = (epsilon_of([event], delta) for event in (shares, single, happened))
    assert charged >= one - 1e-9
    assert one >= true - 1e-9
    assert charged == pytest.approx(true, rel=5e-3)


@pytest.mark.parametrize(
    "column", [[1.0, 0.5, -0.1], [1.0, 0.2, 0.4], [1.0, 1.5, 0.0]], ids=["negative", "rises", "rises at once"]
)
def test_a_matrix_whose_worst_participations_are_not_known_is_refused(column):
    with pytest.raises(ValueError, match="the worst participations are not known"):
        squared_sensitivities(np.array(column), separation=2, participations=2)


def test_where_the_column_rises_the_earliest_rounds_are_not_the_worst():
    """The check is needed: here rounds that are further apart move more."""
    matrix = toeplitz([1.0, 0.0, 0.0, 1.0], 4)
    norms = {tuple(taken): np.linalg.norm(matrix[:, taken].sum(axis=1)) for taken in patterns(4, 2, 2)}
    assert max(norms, key=norms.get) == (0, 3)


@pytest.mark.parametrize("rounds", [20, 60, 200, 500])
@pytest.mark.parametrize("separation", [2, 3, 5, 10, 20])
def test_as_many_bands_as_the_separation_is_close_to_the_best(rounds, separation):
    correlation = Correlation.of(rounds=rounds, separation=separation)
    most = correlation.most_participations
    best = min(
        mean_error(Correlation(rounds=rounds, separation=separation, bands=bands), most)
        for bands in {*range(1, min(rounds, 3 * separation) + 1), min(rounds, 6 * separation)}
    )
    assert mean_error(correlation, most) <= 1.07 * best < 0.9


def test_one_band_is_independent_noise():
    correlation = Correlation(rounds=12, separation=3, bands=1)
    assert inflation(correlation, 4) == pytest.approx(1.0)
    assert mean_error(correlation, 4) == pytest.approx(1.0)
    assert round_spread(correlation) == 1.0


@settings(max_examples=40, deadline=None)
@given(correlations(30))
def test_errors_are_those_of_the_sums_of_the_noise(correlation):
    inverse = toeplitz(inverse_column(correlation.bands), correlation.rounds)
    sums = np.tri(correlation.rounds) @ inverse
    assert np.allclose(errors(correlation), np.linalg.norm(sums, axis=1))
    assert round_spread(correlation) == pytest.approx(np.linalg.norm(inverse, axis=1).max())


@pytest.mark.parametrize(
    ("change", "participations", "message"),
    [
        ({"rounds": 0}, 1, "over 0 rounds is not allowed"),
        ({"rounds": MOST_ROUNDS + 1}, 1, "is not allowed: it is for 1 to"),
        ({"separation": 1}, 1, "separation = 1 is not allowed"),
        ({"separation": 13}, 1, "from 2 to the rounds of the run, 12"),
        ({"bands": 0}, 1, "bands = 0 are not allowed"),
        ({"bands": 13}, 1, "bands = 13 are not allowed"),
        ({}, 0, "takes part in 0 rounds"),
        ({}, 4, "12 rounds have room for 1 to 3"),
    ],
)
def test_what_no_run_can_have_is_refused(change, participations, message):
    correlation = Correlation(**{"rounds": 12, "separation": 4, "bands": 4} | change)
    with pytest.raises(PrivacySpecError, match=message):
        inflation(correlation, participations)


# --- the noise ------------------------------------------------------------------------------------------------------


def seeded(number, seed=3):
    return open_source("seeded", derive_seed(seed, "noise", number))


def asked(source, shapes=((4,), ())):
    return [source.gaussian(shape, std=2.0, device=CPU, dtype=torch.float64) for shape in shapes]


def run(noise, rounds, first=1):
    return [asked(noise(number)) for number in range(first, rounds + 1)]


def same(one, other):
    return all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def test_the_noise_of_a_round_is_a_sum_of_parts_of_the_last_draws():
    noise, drawn = CorrelatedNoise(3, seeded), [asked(seeded(number)) for number in range(1, 6)]
    made = run(noise, 5)
    assert same(made[:1], drawn[:1])
    for place in (0, 1):
        expected = drawn[4][place] - 0.5 * drawn[3][place] - 0.125 * drawn[2][place]
        assert torch.allclose(made[4][place], expected, rtol=0, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 8), st.data())
def test_a_run_that_goes_on_makes_the_very_same_noise(bands, rounds, data):
    whole = run(CorrelatedNoise(bands, seeded), rounds)
    done = data.draw(st.integers(0, rounds - 1))
    assert same(run(CorrelatedNoise(bands, seeded), rounds, first=done + 1), whole[done:])


def test_a_round_that_is_asked_again_has_the_very_same_noise():
    noise = CorrelatedNoise(3, seeded)
    before = run(noise, 4)
    assert same([asked(noise(4))], before[3:])


def test_secure_draws_of_another_process_are_gone():
    assert CorrelatedNoise(3, lambda _: SecureSource())(1).name == "secure"
    assert len(run(CorrelatedNoise(3, lambda _: SecureSource()), 4)) == 4
    with pytest.raises(RunError, match=r"round 5 takes a part of that of round 4 back, .* nowhere else"):
        CorrelatedNoise(3, lambda _: SecureSource())(5)


def test_secure_draws_that_are_no_longer_needed_are_forgotten():
    noise = CorrelatedNoise(3, lambda _: SecureSource())
    run(noise, 6)
    with pytest.raises(RunError, match="takes a part of that of round 3 back"):
        noise(4)


def test_a_round_that_has_secure_noise_gets_no_other():
    noise = CorrelatedNoise(3, lambda _: SecureSource())
    run(noise, 4)
    with pytest.raises(RunError, match="round 4 has its noise already: with other draws it would be another release"):
        noise(4)
    assert len(asked(noise(5))) == 2


@pytest.mark.parametrize("other", [{"shape": (5,)}, {"std": 1.0}])
def test_a_round_that_asks_for_other_noise_is_refused(other):
    noise = CorrelatedNoise(2, seeded)
    run(noise, 1)
    with pytest.raises(ValueError, match="correlated noise is the same in all rounds"):
        noise(2).gaussian(**{"shape": (4,), "std": 2.0, "device": CPU, "dtype": torch.float64} | other)


VALUES = 100_000


def covariance(noise, rounds):
    made = [
        noise(number).gaussian((VALUES,), std=2.0, device=CPU, dtype=torch.float64).numpy()
        for number in range(1, rounds + 1)
    ]
    return np.cov(made, ddof=0)


def deviations(found, expected):
    """Give how many standard deviations each entry of a sample covariance is away from what is expected of it."""
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / VALUES)
    return np.abs(found - expected) / spread


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_the_noise_has_the_covariance_that_is_stated(source):
    """One of the 21 entries is beyond 6 deviations once in 24 million runs; with seeded noise all runs are the same."""
    rounds, bands = 6, 3
    inverse = toeplitz(inverse_column(bands), rounds)
    expected = 4.0 * inverse @ inverse.T

    def draws(number):
        return SeededSource(derive_seed(11, number)) if source == "seeded" else SecureSource()

    assert deviations(covariance(CorrelatedNoise(bands, draws), rounds), expected).max() < 6
    # The test tells other noise from it: drawn anew, of other bands, and with a draw that is used twice.
    assert deviations(covariance(draws, rounds), expected).max() > 20
    for other in (2, 4):
        assert deviations(covariance(CorrelatedNoise(other, draws), rounds), expected).max() > 10
    once = SeededSource(derive_seed(11, 1))
    repeated = CorrelatedNoise(bands, lambda number: once if number == 1 else SeededSource(derive_seed(11, 2)))
    assert deviations(covariance(repeated, rounds), expected).max() > 20
