import numpy as np
import pytest

from fedtrain.privacy.clipping import clip_update
from tests.updates import an_update, flat, norm


def test_a_short_update_is_kept_to_the_bit():
    update = an_update(0, scale=0.01)
    clipped, within = clip_update(update, 1.0)
    assert within
    assert {name: value.tobytes() for name, value in clipped.items()} == {
        name: value.tobytes() for name, value in update.items()
    }


def test_a_long_update_keeps_its_direction_over_all_arrays_together():
    update = an_update(0, scale=50.0)
    clipped, within = clip_update(update, 2.0)
    assert not within
    assert 2.0 * (1 - 1e-5) < norm(clipped) <= 2.0
    assert flat(clipped) / norm(clipped) == pytest.approx(flat(update) / norm(update), abs=1e-6)
    assert {name: (value.dtype, value.shape) for name, value in clipped.items()} == {
        name: (value.dtype, value.shape) for name, value in update.items()
    }


def test_an_update_as_long_as_the_norm_is_within_it_and_shortened_by_a_hair():
    clipped, within = clip_update({"x": np.array([3.0, 4.0], np.float32)}, 5.0)
    assert within
    assert 5.0 * (1 - 1e-5) < norm(clipped) < 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_counts_as_zero_and_as_outside(bad):
    update = an_update(0)
    update["bias"][2] = bad
    clipped, within = clip_update(update, 1.0)
    assert not within
    assert norm(clipped) == 0.0
    assert set(clipped) == set(update)


def test_lengths_whose_squares_do_not_fit_float64_are_clipped_like_others():
    huge, _ = clip_update({"x": np.array([3e200, 4e200])}, 5.0)
    assert huge["x"] == pytest.approx([3.0, 4.0], rel=1e-5)
    longest, within = clip_update({"x": np.full(4, 1.7e308)}, 1e-10)
    assert not within
    assert longest["x"] == pytest.approx([0.5e-10] * 4, rel=1e-5)
    assert norm(longest) <= 1e-10
    tiny, within = clip_update({"x": np.array([3e-200, 4e-200])}, 1e-200)
    assert not within
    assert tiny["x"] == pytest.approx([0.6e-200, 0.8e-200], rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_to_the_dtype_never_lengthens_beyond_the_norm(dtype):
    # Rounding to the nearest would lengthen half of these, in half floats by more than any margin.
    for seed in range(100):
        clipped, _ = clip_update(an_update(seed, scale=20.0, dtype=dtype), 1.5)
        assert clipped["weight"].dtype == dtype
        assert 1.5 * (1 - 1e-2) < norm(clipped) <= 1.5


def test_zero_and_nothing_are_within_any_norm():
    assert clip_update({}, 1.0) == ({}, True)
    clipped, within = clip_update({"x": np.zeros((0, 3), np.float32), "y": np.zeros((), np.float32)}, 1e-9)
    assert within
    assert norm(clipped) == 0.0


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_a_clipping_norm_that_bounds_nothing_is_refused(bad):
    with pytest.raises(ValueError, match="clip_norm"):
        clip_update(an_update(0), bad)
