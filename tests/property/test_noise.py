import bisect

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.privacy.integer_noise import IntegerNoise, draw
from fedtrain.privacy.integer_tables import thresholds
from fedtrain.privacy.noise import SecureSource, SeededSource

CPU = torch.device("cpu")
shapes = st.lists(st.integers(0, 7), max_size=4)


@given(shape=shapes, std=st.floats(0, 1e6), seed=st.integers(0, 2**63 - 1))
def test_gaussians_of_any_shape_and_scale_are_finite(shape, std, seed):
    for source in (SeededSource(seed), SecureSource()):
        drawn = source.gaussian(shape, std=std, device=CPU)
        assert drawn.shape == torch.Size(shape)
        assert bool(drawn.isfinite().all())
        assert float(drawn.abs().sum()) <= 18 * std * drawn.numel()


@given(count=st.integers(0, 300), probability=st.floats(0, 1))
def test_masks_of_any_rate(count, probability):
    for source in (SeededSource(0), SecureSource()):
        assert source.bernoulli(count, probability).shape == (count,)
        assert int(source.bernoulli(count, 0.0).sum()) == 0
        assert int(source.bernoulli(count, 1.0).sum()) == count


@given(seed=st.integers(0, 2**63 - 1), counts=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_a_seed_repeats_its_stream(seed, counts):
    one, two = SeededSource(seed), SeededSource(seed)
    for count in counts:
        assert torch.equal(one.gaussian((count,), std=1.0, device=CPU), two.gaussian((count,), std=1.0, device=CPU))


kinds = st.sampled_from(["skellam", "discrete-gaussian"])
variances = st.floats(4.0, 1e6)


class Given:
    """A source that gives these words, then others."""

    name = "seeded"

    def __init__(self, words):
        self._words = words

    def streams(self, count):
        return [self]

    def words(self, count):
        taken, self._words = self._words[:count], self._words[count:]
        return np.array(taken + [7] * (count - len(taken)), dtype=np.uint64)


@given(kind=kinds, variance=variances, data=st.data())
def test_any_uniform_becomes_the_number_of_thresholds_at_most_it(kind, variance, data):
    noise = IntegerNoise(kind=kind, variance=variance)
    upper, lower = thresholds(kind, variance)
    place = data.draw(st.integers(0, noise.most - 1))
    near = st.integers(-3, 3).map(lambda away: min(max(int(upper[place]) + away, 0), 2**63 - 1))
    first = data.draw(st.integers(0, 2**63 - 1) | near)
    second, sign = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 1))
    ends = [(int(high) << 64) + int(low) for high, low in zip(upper, lower, strict=True)]
    magnitude = bisect.bisect_right(ends, (first << 64) + second)
    assert draw(noise, 1, Given([first << 1 | sign, second])).tolist() == [-magnitude if sign else magnitude]


@given(kind=kinds, variance=variances, counts=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_a_seed_repeats_integer_noise_in_any_parts(kind, variance, counts):
    noise, one, two = IntegerNoise(kind=kind, variance=variance), SeededSource(9), SeededSource(9)
    parts = [draw(noise, count, one) for count in counts]
    together = draw(noise, sum(counts), two)
    assert np.array_equal(np.concatenate(parts), together)
    assert np.abs(together).max(initial=0) <= noise.most


@given(kind=kinds, variance=variances)
def test_tables_ascend_and_distances_are_small(kind, variance):
    noise = IntegerNoise(kind=kind, variance=variance)
    upper, lower = thresholds(kind, variance)
    assert bool((upper[1:] >= upper[:-1]).all())
    equal = upper[1:] == upper[:-1]
    assert bool((lower[1:][equal] >= lower[:-1][equal]).all())
    assert 0 < noise.distance < 2.0**-105
    assert len(upper) == noise.most
