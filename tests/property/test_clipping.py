from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedtrain.privacy.clipping import clip_change, clip_update


def updates(dtype, width, **limits):
    values = st.floats(width=width, allow_subnormal=True, **limits)
    shapes = arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5)
    return st.dictionaries(st.sampled_from("abc"), arrays.arrays(dtype, shapes, elements=values), max_size=3)


any_update = st.one_of(
    updates(np.float32, 32), updates(np.float16, 16), updates(np.float64, 64), updates(np.float32, 32, max_value=10)
)
clip_norms = st.floats(min_value=1e-10, max_value=1e10)


def exact_square(update):
    """Return the squared norm without any rounding."""
    return sum((Fraction(float(value)) ** 2 for array in update.values() for value in array.ravel()), Fraction(0))


# The factor between the two would lose its digits in float64.
largest = example({"a": np.array(1.79769299e308)}, 1e-10)


@largest
@given(any_update, clip_norms)
def test_the_exact_norm_of_the_result_never_exceeds_the_bound(update, clip_norm):
    clipped, _ = clip_update(update, clip_norm)
    assert exact_square(clipped) <= Fraction(clip_norm) ** 2


@given(any_update, clip_norms)
def test_names_shapes_and_dtypes_are_kept(update, clip_norm):
    clipped, _ = clip_update(update, clip_norm)
    assert {name: (value.dtype, value.shape) for name, value in clipped.items()} == {
        name: (value.dtype, value.shape) for name, value in update.items()
    }


@largest
@given(any_update, clip_norms)
def test_clipping_again_changes_nothing(update, clip_norm):
    clipped, _ = clip_update(update, clip_norm)
    again, within = clip_update(clipped, clip_norm)
    assert within
    assert all(again[name].tobytes() == value.tobytes() for name, value in clipped.items())


@given(any_update, clip_norms)
def test_within_means_that_the_norm_was_at_most_the_bound(update, clip_norm):
    _, within = clip_update(update, clip_norm)
    finite = all(np.isfinite(array).all() for array in update.values())
    if not finite:
        assert not within
        return
    square, bound = exact_square(update), Fraction(clip_norm) ** 2
    if abs(square - bound) > bound * Fraction(1, 10**12):
        assert within == (square < bound)


@given(updates(np.float32, 32, min_value=-(2.0**20), max_value=2.0**20), clip_norms)
def test_no_value_grows_or_changes_its_sign(update, clip_norm):
    clipped, _ = clip_update(update, clip_norm)
    for name, value in update.items():
        assert (np.abs(clipped[name]) <= np.abs(value)).all()
        assert (clipped[name] * np.sign(value) >= 0).all()


@st.composite
def changed(draw):
    """Return two models of one dtype, a small step apart: of few units in the last place in half precision."""
    dtype, width = draw(st.sampled_from([(np.float16, 16), (np.float32, 32), (np.float64, 64)]))
    before = draw(arrays.arrays(dtype, 20, elements=st.floats(-8, 8, width=width)))
    step = draw(arrays.arrays(np.float64, 20, elements=st.floats(-1, 1)))
    size = draw(st.sampled_from([1e-4, 1e-2, 1.0]))
    return before, np.asarray(before + size * step, dtype=dtype), size


@example((np.ones(20, np.float16), np.full(20, 1 + 2.0**-9, np.float16), 0.01), 0.26)
@given(changed(), st.floats(0.01, 3))
def test_what_is_sent_is_no_further_away_than_the_bound_in_any_precision(models, share):
    before, after, size = models
    clip_norm = share * size
    sent, _ = clip_change({"w": before}, {"w": after}, clip_norm)
    assert sent["w"].dtype == before.dtype
    moved = sum((Fraction(float(one)) - Fraction(float(two))) ** 2 for one, two in zip(sent["w"], before, strict=True))
    assert moved <= Fraction(clip_norm) ** 2
