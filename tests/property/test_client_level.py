from fractions import Fraction
from math import exp

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedtrain.privacy import AdaptiveClipping
from fedtrain.privacy.client_level import clip_update, release_sum
from fedtrain.privacy.noise import SeededSource
from tests.plans import capped_plan


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


@example([1e-05], 0.001, 0.0, 0)
@given(
    st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=20),
    st.floats(min_value=1e-3, max_value=1e6),
    st.floats(min_value=-1e6, max_value=1e6),
    st.integers(min_value=-(10**6), max_value=10**6),
)
def test_a_sum_that_was_reduced_is_released_as_the_true_sum_with_its_noise_is(values, modulus, count, multiples):
    true = np.array(values)
    plan = one_client_plan()
    whole = release_sum(plan, clip_norm=1.0, total={"w": true}, count=count, source=SeededSource(4))
    reduced = release_sum(
        plan,
        clip_norm=1.0,
        total={"w": true + multiples * modulus},
        count=count,
        source=SeededSource(4),
        modulus=modulus,
    )
    difference = (whole.mean["w"] - reduced.mean["w"]) * plan.spec.divisor / modulus
    # The noise can be many times the modulus, and every sum is rounded in the last place of its largest part.
    largest = np.abs(true).max() + np.abs(whole.mean["w"]).max() * plan.spec.divisor
    tolerance = 1e-14 * (largest / modulus + abs(multiples) + 1)
    assert np.abs(difference - np.rint(difference)).max() <= tolerance
    assert np.abs(reduced.mean["w"] * plan.spec.divisor).max() <= modulus * (0.5 + tolerance)


def test_without_reducing_again_the_smallest_update_would_show_at_the_edge_of_the_range():
    """Let one client bring a coordinate to the edge of the range, and another move it by the least that there is."""
    modulus, source = 2.0**16, lambda: SeededSource(4)
    plan = one_client_plan()
    before, after = modulus / 2 - 1, -modulus / 2  # the latter is one more, reduced

    def difference(**settings):
        released = [
            release_sum(plan, clip_norm=1.0, total={"w": np.array([value])}, count=0, source=source(), **settings)
            for value in (before, after)
        ]
        change = float((released[1].mean["w"] - released[0].mean["w"])[0] * plan.spec.divisor)
        return min(abs(change), abs(abs(change) - modulus)) if settings else abs(change)

    assert difference() > 1000 * plan.value_noise_multiplier
    assert difference(modulus=modulus) <= 1 + 1e-9


@example(400.0)
@given(st.floats(min_value=-1e9, max_value=1e9))
def test_a_forged_count_moves_the_clipping_norm_no_more_than_an_honest_one_can(count):
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=5.0)
    plan = one_client_plan(adaptive)

    def norm(**bound):
        settings = {"clip_norm": 1.0, "total": {}, "count": count, "source": SeededSource(4)}
        return release_sum(plan, **settings, **bound).clip_norm

    # Ten clients, all of them within or all of them beyond the norm, are the most that an honest count says.
    extremes = [exp(-0.2 * (fraction - 0.5)) for fraction in (1.0, 0.0)]
    assert extremes[0] - 1e-12 <= norm(largest_count=5.0) <= extremes[1] + 1e-12
    if 100 < abs(count) < 1000:
        assert not extremes[0] <= norm() <= extremes[1]


def one_client_plan(adaptive=None):
    return capped_plan(10, clip_norm=1.0, noise_multiplier=5.0, adaptive=adaptive)
