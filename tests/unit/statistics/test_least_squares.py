from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch

from fedtrain.errors import ConfigError, TaskError
from fedtrain.statistics import ClassCode, LabelsCode, MomentLayout, Moments, NumberCode, fit, noise_norm, ridge

INPUTS, RADIUS = 6, 3.0


@pytest.fixture(scope="module")
def table():
    """Records whose target is a linear function of inputs within the bound, and a little more."""
    drawn = np.random.default_rng(0)
    inputs = drawn.uniform(-1, 1, size=(400, INPUTS))
    targets = inputs @ np.arange(1.0, INPUTS + 1) + 2 + 0.1 * drawn.normal(size=400)
    return inputs, targets


def moments_of(layout, inputs, encoded, *, noise=0.0, seed=0):
    vectors = layout.vectors(layout.augmented(torch.from_numpy(inputs)), encoded)
    total = vectors.sum(dim=0).numpy()
    return layout.read(total + noise * np.random.default_rng(seed).normal(size=total.size), deviation=noise)


def number_fit(table, *, noise):
    inputs, targets = table
    code = NumberCode(lower=-30.0, upper=40.0)
    layout = MomentLayout(inputs=INPUTS, targets=1, radius=RADIUS)
    moments = moments_of(layout, inputs, code.encode(torch.from_numpy(targets), torch.float64), noise=noise)
    weights, biases = layout.head(fit(moments))
    return np.append(weights[0] * code.scale, biases[0] * code.scale + code.centre)


def test_without_noise_it_is_the_least_squares_fit(table):
    inputs, targets = table
    expected = np.linalg.lstsq(np.column_stack([inputs, np.ones(len(inputs))]), targets, rcond=None)[0]
    assert np.allclose(number_fit(table, noise=0.0), expected, rtol=1e-9)


def test_it_nears_that_as_the_noise_goes_to_zero(table):
    exact = number_fit(table, noise=0.0)
    errors = [np.abs(number_fit(table, noise=noise) - exact).max() for noise in (1.0, 1e-2, 1e-4, 1e-6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def test_equal_inputs_have_the_fit_of_least_norm():
    """Of columns that are the same, which least squares cannot tell apart."""
    column = np.random.default_rng(1).uniform(-1, 1, size=(50, 1))
    code = NumberCode(lower=-10.0, upper=10.0)
    layout = MomentLayout(inputs=2, targets=1, radius=2.0)
    inputs = np.hstack([column, column])
    moments = moments_of(layout, inputs, code.encode(torch.from_numpy(4 * column[:, 0]), torch.float64))
    weights, _ = layout.head(fit(moments))
    assert np.allclose(weights * code.scale, [[2.0, 2.0]], rtol=1e-6)


def test_classes_are_told_apart(table):
    inputs, _ = table
    classes = torch.from_numpy((inputs[:, 0] > inputs[:, 1]).astype(np.int64))
    code = ClassCode(columns=2)
    layout = MomentLayout(inputs=INPUTS, targets=2, radius=RADIUS)
    weights, biases = layout.head(fit(moments_of(layout, inputs, code.encode(classes, torch.float64))))
    fitted = torch.from_numpy((inputs @ weights.T + biases) * code.scale + code.centre)
    assert float((fitted.argmax(dim=1) == classes).double().mean()) > 0.95
    assert torch.allclose(fitted.sum(dim=1), torch.ones(len(inputs), dtype=torch.float64))
    assert torch.allclose(code.outputs(torch.tensor([[-0.2, 0.5]])).exp(), torch.tensor([[0.01, 0.5]]))


def test_labels_are_fitted_as_probabilities():
    inputs = np.zeros((40, 1))
    labels = torch.zeros((40, 2), dtype=torch.uint8)
    labels[:10, 0] = 1
    code = LabelsCode(columns=2)
    layout = MomentLayout(inputs=1, targets=2, radius=1.0)
    _, biases = layout.head(fit(moments_of(layout, inputs, code.encode(labels, torch.float64))))
    fitted = torch.from_numpy(biases * code.scale + code.centre)
    assert torch.allclose(fitted, torch.tensor([0.25, 0.0], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(code.outputs(fitted).sigmoid(), torch.tensor([0.25, 0.01], dtype=torch.float64))


def test_inputs_beyond_the_bound_are_scaled_down_and_none_that_are_not_finite_spoils_the_sum():
    layout = MomentLayout(inputs=2, targets=1, radius=1.0, constant=0.36)
    inputs = torch.tensor([[3.0, 4.0], [0.3, 0.4], [float("nan"), 1.0], [float("inf"), 1.0], [3e38, 3e38]])
    root = sqrt(0.5)
    expected = [[0.48, 0.64, 0.6], [0.24, 0.32, 0.6], [0, 0, 0.6], [0, 0, 0.6], [0.8 * root, 0.8 * root, 0.6]]
    assert torch.allclose(layout.augmented(inputs), torch.tensor(expected))


def test_a_vector_too_large_to_sum_says_the_arithmetic():
    with pytest.raises(TaskError, match=r"20,001 inputs needs the sum of 200,050,003 products .* at most 16,777,216"):
        MomentLayout(inputs=20_001, targets=2, radius=1.0)


def test_an_unbounded_target_says_the_arithmetic():
    with pytest.raises(ConfigError, match=r"the target is an unbounded statistic: .* standard deviation .* \* inf"):
        NumberCode(lower=0.0, upper=float("inf"))
    with pytest.raises(ConfigError, match="the lower bound is to be below the upper"):
        NumberCode(lower=1.0, upper=1.0)


# What the noise does, in numbers that many draws measure.

DRAWS, WIDTH = 4000, 4
LAYOUT = MomentLayout(inputs=WIDTH - 1, targets=2, radius=1.0, gram=0.3)


def check_noise(layout, read):
    """Check that what is read of pure noise has mean zero and the deviations that it says."""
    drawn = np.random.default_rng(5).normal(scale=2.0, size=(DRAWS, layout.size))
    found = [read(row, deviation=2.0) for row in drawn]
    grams, moments = np.array([each.gram for each in found]), np.array([each.moment for each in found])
    assert (grams == grams.transpose(0, 2, 1)).all()
    expected = np.full((WIDTH, WIDTH), found[0].gram_deviation / sqrt(2))
    np.fill_diagonal(expected, found[0].gram_deviation)
    for values, deviations in ((grams, expected), (moments, np.full((2, WIDTH), found[0].moment_deviation))):
        assert (np.abs(values.mean(axis=0)) < 5 * deviations / sqrt(DRAWS)).all()
        assert np.allclose(values.std(axis=0) / deviations, 1, atol=5 / sqrt(2 * DRAWS))
    upper = np.array(
        [np.append(gram[np.triu_indices(WIDTH)], moment) for gram, moment in zip(grams, moments, strict=True)]
    )
    correlations = np.corrcoef(upper.T) - np.eye(layout.size)
    assert np.abs(correlations).max() < 6 / sqrt(DRAWS)


def test_the_noise_of_moments_is_what_they_say():
    check_noise(LAYOUT, LAYOUT.read)


def read_with(change):
    def read(total, *, deviation):
        return change(LAYOUT.read(total, deviation=deviation))

    return read


PLANTED = {
    "off the diagonal not divided by the root of 2": lambda found: replace(
        found, gram=found.gram * np.where(np.eye(WIDTH) > 0, 1, sqrt(2))
    ),
    "a biased moment": lambda found: replace(found, moment=found.moment + 0.2 * found.moment_deviation),
    "a deviation of the vector, not of the moments": lambda found: replace(found, gram_deviation=2.0),
    "one number read twice": lambda found: replace(found, moment=np.stack([found.moment[0], found.moment[0]])),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_check_of_the_noise_finds_an_error(planted):
    with pytest.raises(AssertionError):
        check_noise(LAYOUT, read_with(PLANTED[planted]))


def noise_of(layout, seed):
    drawn = np.random.default_rng(seed).normal(size=layout.size)
    return layout.read(drawn, deviation=1.0)


def test_the_bound_on_the_noise_holds_and_is_no_more_than_half_too_large():
    layout = MomentLayout(inputs=199, targets=2, radius=1.0)
    for seed in range(5):
        noise = noise_of(layout, seed)
        largest = np.abs(np.linalg.eigvalsh(noise.gram)).max()
        assert 0.55 < largest / noise_norm(noise) < 0.75


def test_the_ridge_is_the_noise_less_what_the_eigenvalues_are_known_to_be():
    layout = MomentLayout(inputs=19, targets=1, radius=1.0)
    noise = noise_of(layout, 0)
    bound = noise_norm(noise)

    def with_smallest(value):
        return replace(noise, gram=noise.gram + value * np.eye(20))

    assert ridge(noise) == pytest.approx(bound)
    assert 0 < ridge(with_smallest(2 * bound)) < bound
    assert ridge(with_smallest(5 * bound)) == 0


def test_a_fit_of_noise_alone_is_finite_and_small():
    layout = MomentLayout(inputs=60, targets=3, radius=1.0)
    for seed in range(10):
        found = fit(noise_of(layout, seed))
        assert np.abs(found).max() < 1


def test_moments_without_records_and_without_noise_fit_zero():
    empty = Moments(gram=np.zeros((3, 3)), moment=np.zeros((2, 3)), gram_deviation=0.0, moment_deviation=0.0)
    assert (fit(empty) == 0).all()
