"""Rounding that is right on average, exact where it can be, and within the bound always."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedtrain.secagg import Parameters, dequantize, quantize

bounds = st.floats(1e-6, 1e6)
all_bits = st.integers(2, 31)


def parameters_of(bits=16, bound=1.0, length=1):
    return Parameters.plan(members=2, length=length, bits=bits, bound=bound)


def quantized(values, parameters, seed=0):
    return quantize(np.asarray(values), parameters=parameters, random=np.random.default_rng(seed)).view(np.int32)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    bits=all_bits,
    bound=bounds,
    seed=st.integers(0, 99),
)
def test_a_value_goes_to_one_of_the_points_beside_it(values, bits, bound, seed):
    parameters = parameters_of(bits, bound)
    points = quantized(np.array(values), parameters, seed)
    assert np.abs(points).max() <= parameters.largest
    back = dequantize(points.view(np.uint32), parameters=parameters)
    clipped = np.clip(values, -bound, bound)
    assert (np.abs(back - clipped) <= parameters.step * (1 + 1e-9) + 1e-15 * bound).all()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), bits=all_bits, bound=bounds)
def test_points_of_the_grid_stay(data, bits, bound):
    parameters = parameters_of(bits, bound)
    largest = parameters.largest
    points = data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=30))
    points += [0, largest, -largest]
    values = np.array(points) * parameters.step
    for seed in range(3):
        assert quantized(values, parameters, seed).tolist() == points
    assert (
        dequantize(np.array(points, dtype=np.int32).view(np.uint32), parameters=parameters).tolist() == values.tolist()
    )
    assert quantized(np.array([bound, -bound, 0.0, -0.0]), parameters).tolist() == [largest, -largest, 0, 0]


@pytest.mark.parametrize("bits", [2, 8, 16, 24, 31])
@pytest.mark.parametrize("bound", [0.1, 1 / 3, 0.7, 1e-3, 123.456])
def test_a_million_points_of_the_grid_stay(bits, bound):
    parameters = parameters_of(bits, bound)
    points = np.random.default_rng(bits).integers(-parameters.largest, parameters.largest + 1, 1_000_000)
    np.testing.assert_array_equal(quantized(points * parameters.step, parameters), points)


LIKELY, IMPOSSIBLE = 1e-6, 1e-9


def ups(rule, fraction, count=200_000):
    """Return how many of equal values, so far above a point, a rule takes up."""
    parameters = parameters_of(8)
    values = np.full(count, (5 + fraction) * parameters.step)
    points = rule(values, parameters)
    assert set(points.tolist()) <= {5, 6}
    return int((points == 6).sum())


@pytest.mark.parametrize("fraction", [0.003, 0.25, 0.5, 0.9])
def test_rounding_is_unbiased(fraction):
    assert stats.binomtest(ups(quantized, fraction), 200_000, fraction).pvalue > LIKELY


def half_up(values, parameters):
    return np.floor(values / parameters.step + 0.5).astype(np.int32)


def slightly_up(values, parameters):
    draws = np.random.default_rng(1).random(len(values))
    return np.floor(values / parameters.step + 0.01 + draws).astype(np.int32).clip(5, 6)


@pytest.mark.parametrize("rule", [half_up, slightly_up])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.9])
def test_biased_rounding_is_rejected(rule, fraction):
    assert stats.binomtest(ups(rule, fraction), 200_000, fraction).pvalue < IMPOSSIBLE


def test_values_are_rounded_independently():
    parameters = parameters_of(8)
    points = quantized(np.full(200_000, 5.5 * parameters.step), parameters).astype(float)
    assert stats.pearsonr(points[1:], points[:-1]).pvalue > LIKELY
    half = len(points) // 2
    assert stats.pearsonr(points[:half], points[half:]).pvalue > LIKELY


def test_a_seed_repeats_the_rounding():
    values = np.random.default_rng(0).uniform(-1, 1, 200_000)
    one, same, other = (quantized(values, parameters_of(), seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_single_precision_is_rounded_as_the_same_doubles():
    values = np.random.default_rng(0).normal(0, 0.5, 100_000).astype(np.float32)
    np.testing.assert_array_equal(
        quantized(values, parameters_of(24)), quantized(values.astype(np.float64), parameters_of(24))
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_is_not_finite_is_refused(value, kind):
    values = np.zeros(70_000, dtype=kind)
    values[66_000] = value
    with pytest.raises(ValueError, match="a value between 65536 and 70000 is not finite"):
        quantized(values, parameters_of())


@pytest.mark.parametrize("values", [np.zeros(2, dtype=int), np.zeros(2, dtype=np.float16), np.zeros((2, 1))])
def test_other_arrays_are_refused(values):
    with pytest.raises(ValueError, match="float32 or float64 of one dimension is expected"):
        quantized(values, parameters_of())


def test_values_are_not_changed():
    values = np.full(10, 7.0)
    quantized(values, parameters_of())
    assert (values == 7).all()
    assert quantized(np.zeros(0), parameters_of()).tolist() == []
