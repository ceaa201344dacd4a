"""The losses of a sampled Gaussian are those of dp-accounting, bit for bit."""

import random
from math import log, log1p

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

from fedtrain.privacy.accounting.gaussian_loss import _deltas, gaussian_losses

DRAW = random.Random(0)
CASES = [
    # (rate, noise, grid): rates of all sizes; where the range of losses ends at a point of the grid, or nearly there
    *((1.0, noise, 1e-3) for noise in (0.3, 1.0, 50.0, 1000.0)),
    *((rate, noise, 1e-3) for rate in (1e-9, 1e-4, 0.01, 0.5, 0.99, 1 - 1e-9) for noise in (0.3, 3.0, 300.0)),
    *((-ending, noise, 1e-3) for ending in (-0.0009995001666, -0.00199800133) for noise in (0.5, 5.0)),
    *((10 ** DRAW.uniform(-4, 0), 10 ** DRAW.uniform(-0.5, 3), DRAW.choice([1e-3, 5e-3])) for _ in range(40)),
    (0.2, 1.0, 1e-4),
    (1.0, 2.0, 1e-4),
]


def content(side):
    dense = side.to_dense_pmf()
    mass = dense._lower_loss, dense._infinity_mass, dense._discretization, dense._pessimistic_estimate
    return mass, dense._probs.tobytes()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_losses_are_those_of_dp_accounting_bit_for_bit(case):
    rate, noise, grid = case
    theirs = from_gaussian_mechanism(noise, value_discretization_interval=grid, sampling_prob=rate)
    ours = gaussian_losses(rate, noise, grid)
    assert ours._symmetric == theirs._symmetric
    assert content(ours._pmf_remove) == content(theirs._pmf_remove)
    assert content(ours._pmf_add) == content(theirs._pmf_add)


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize("rate", [0.3, 1e-3])
def test_points_at_the_end_of_the_range_are_as_there(rate, adjacency):
    loss = GaussianPrivacyLoss(1.0, sampling_prob=rate, adjacency_type=adjacency)
    end = -log1p(-rate)
    near = [end * (1 + sign * 10**-power) for power in range(3, 17) for sign in (-1, 1)]
    points = np.array([*sorted({0.0, end, -log(1 - rate), *near}), 10.0])
    points = np.concatenate([-points[::-1], points])
    assert _deltas(loss, points).tobytes() == loss.get_delta_for_epsilon(points).tobytes()


def test_what_dp_accounting_cannot_invert_is_an_error_here_too():
    for make in (
        lambda rate: from_gaussian_mechanism(0.3, sampling_prob=rate),
        lambda rate: gaussian_losses(rate, 0.3, 1e-4),
    ):
        with pytest.raises(ValueError, match="a must be greater than b"):
            make(1 - 1e-16)
