"""What the plan says of shared noise: nothing wraps around, and rounding is in the sensitivity."""

from math import ceil, isqrt, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.integer_noise import IntegerNoise
from fedtrain.privacy.shares import NoiseShares, grid_of, least_threshold, most_bits
from fedtrain.privacy.whole_numbers import mean_of, rounded

GRID = grid_of(NoiseShares(members=4, threshold=3, colluders=1, bits=16, reach=2), 1.0)


@st.composite
def shared(draw):
    members = draw(st.integers(2, 200))
    threshold = draw(st.integers(least_threshold(members), members))
    colluders = draw(st.integers(0, threshold - 1))
    bits = draw(st.integers(8, most_bits(members)))
    shares = NoiseShares(
        members=members, threshold=threshold, colluders=colluders, bits=bits, reach=draw(st.integers(1, 5000))
    )
    return shares, draw(st.floats(0.3, 1000.0))


@given(shared())
def test_no_sum_can_overflow_and_the_counted_shares_have_the_promised_noise(case):
    shares, noise = case
    try:
        grid = grid_of(shares, noise)
    except PrivacySpecError:
        assume(False)
    assert grid.limit + grid.most <= shares.largest
    assert shares.members * (grid.limit + grid.most) < 2**31
    assert grid.limit == shares.reach * grid.steps
    assert isqrt(grid.values) ** 2 == grid.values
    assert grid.variance == shares.honest * grid.share >= (noise * grid.l2) ** 2 * (1 - 1e-12)
    # And no more than whole numbers make it: noise costs accuracy.
    assert (grid.share - 1) * shares.honest < (noise * grid.l2) ** 2
    assert grid.l2 <= grid.steps * (1 + 1 / 64)


@given(shared())
def test_a_finer_grid_would_not_fit(case):
    shares, noise = case
    try:
        grid = grid_of(shares, noise)
    except PrivacySpecError:
        assume(False)
    root = isqrt(grid.values) + 1
    share = ceil((noise * 65 * root) ** 2 / shares.honest)
    if share <= 2**34:
        most = IntegerNoise(kind="skellam", variance=float(share)).most
        assert shares.reach * 64 * root + most > shares.largest


vectors = st.lists(
    st.one_of(st.floats(-3, 3), st.integers(-8, 8).map(lambda n: n / 2), st.just(0.0)), min_size=1, max_size=30
)


@given(vectors, vectors, st.floats(0, 1), st.data())
def test_rounding_moves_neighbours_apart_by_one_step_in_each_coordinate_at_most(base, direction, length, data):
    """Neighbours differ by a vector of the clipping norm at most; in grid steps, some of them half ones."""
    clip_norm = data.draw(st.sampled_from([1.0, 0.3, 1e-3, 7e5]))
    size = min(len(base), len(direction))
    step = clip_norm / GRID.steps
    before = np.array(base[:size]) * data.draw(st.sampled_from([step, clip_norm]))
    towards = np.array(direction[:size])
    norm = np.linalg.norm(towards)
    change = np.zeros(size) if norm == 0 else towards / norm * length * clip_norm * (1 - 1e-9)
    change = data.draw(st.sampled_from([change, np.clip(np.round(change / step), -1, 1) * step]))
    assume(np.linalg.norm(change) <= clip_norm)
    one, other = (rounded(values, GRID, clip_norm=clip_norm).astype(np.int64) for values in (before, before + change))
    moved = np.abs(one - other)
    assert np.linalg.norm(moved) <= np.linalg.norm(change) / step + sqrt(size) + 1e-6
    assert np.linalg.norm(moved) <= GRID.l2
    assert moved.sum() <= sqrt(size) * GRID.l2 + 1e-6
    assert np.abs(one).max() <= GRID.limit


def test_the_bound_for_rounding_is_reached_at_ties():
    """To half a step is rounded down, and from three halves up: one step apart become two, in every coordinate."""
    step = 1 / GRID.steps
    one = rounded(np.full(9, 0.5 * step), GRID, clip_norm=1.0)
    other = rounded(np.full(9, 1.5 * step), GRID, clip_norm=1.0)
    assert set((other - one).tolist()) == {2}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(1, 9))
def test_the_mean_of_rounded_values_is_theirs_but_for_half_a_step(values, clients):
    numbers = np.clip(np.array(values), -2, 2)
    total = {"w": clients * rounded(numbers, GRID, clip_norm=1.0).astype(np.int64)}
    mean = mean_of(total, GRID, clip_norm=1.0, divisor=clients)["w"]
    assert np.abs(mean - numbers).max() <= 0.5 / GRID.steps + 1e-12


@pytest.mark.parametrize("members", [2, 3, 4, 10, 31, 200])
def test_what_a_server_that_tells_different_stories_can_leave_out(members):
    """Of all ways to answer honestly, none leaves fewer honest clients in a sum than the plan says.

    Each of the n - c honest clients is told of at most n - t that dropped out, and answers once; a client is out of a
    sum if t - c honest ones were told so. So spreading what they are told over as few clients as it takes is the worst.
    """
    for threshold in range(least_threshold(members), members + 1):
        for colluders in range(threshold):
            shares = NoiseShares(members=members, threshold=threshold, colluders=colluders, bits=16, reach=1)
            left = shares.honest_told_apart
            assert 0 <= left <= shares.honest
            honest, told = members - colluders, (members - colluders) * (members - threshold)
            if colluders > 2 * threshold - members - 1:
                assert left == 0
                continue
            out = 0
            while (out + 1) * (threshold - colluders) <= told:
                out += 1
            assert left == min(shares.honest, honest - out) >= 1
