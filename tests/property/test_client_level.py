from math import exp

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from fedtrain.privacy import AdaptiveClipping
from fedtrain.privacy.client_level import release_sum
from fedtrain.privacy.noise import SeededSource
from tests.plans import capped_plan


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
