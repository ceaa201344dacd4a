"""What every source of randomness keeps to."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from fedtrain.privacy.noise import RandomSource, open_source

CPU = torch.device("cpu")
COUNT = 20_000
# A right source fails one of these many tests by chance in less than one of a million runs; a wrong one is rejected at
# the level of 1e-9.
LIKELY, IMPOSSIBLE = 1e-8, 1e-9


@pytest.fixture(params=["seeded", "secure"])
def source(request) -> Iterator[RandomSource]:
    """Give a source that draws large samples by several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield open_source(request.param, 11)
    torch.set_num_threads(before)


def draw(source, count=COUNT, std=1.0):
    return source.gaussian((count,), std=std, device=CPU).double().numpy()


def test_it_says_what_it_is(source):
    assert source.name in {"seeded", "secure"}
    assert open_source(source.name, 0).name == source.name


@pytest.mark.parametrize("std", [1e-6, 1.0, 37.5])
def test_gaussians_are_normal_and_of_the_asked_scale(source, std):
    sample = draw(source, std=std)
    assert stats.kstest(sample, "norm", args=(0, std)).pvalue > LIKELY
    # The chi-square test of the variance is far sharper on the scale than Kolmogorov and Smirnov's.
    assert LIKELY < stats.chi2.cdf(np.square(sample / std).sum(), COUNT) < 1 - LIKELY
    assert abs(sample.mean()) < 6 * std / math.sqrt(COUNT)


@pytest.mark.parametrize("wrong", [0.9, 1.1, math.sqrt(2)])
def test_a_wrong_scale_is_rejected(source, wrong):
    sample = draw(source, std=wrong)
    assert stats.chi2.sf(np.square(sample).sum(), COUNT) < IMPOSSIBLE or (
        stats.chi2.cdf(np.square(sample).sum(), COUNT) < IMPOSSIBLE
    )
    assert stats.kstest(draw(source, 4 * COUNT, wrong), "norm").pvalue < IMPOSSIBLE


def test_the_tails_are_there(source):
    beyond = int((np.abs(draw(source, 200_000)) > 4).sum())
    assert stats.binomtest(beyond, 200_000, 2 * stats.norm.sf(4)).pvalue > LIKELY


def test_neighbours_halves_and_calls_are_independent(source):
    one, two = draw(source), draw(source)
    pairs = [(one, two), (one[:-1], one[1:]), (one[: COUNT // 2], one[COUNT // 2 :])]
    for left, right in pairs:
        assert stats.pearsonr(left, right).pvalue > LIKELY
        # Uncorrelated is not independent: the two values of a pair share their radius.
        assert stats.pearsonr(np.square(left), np.square(right)).pvalue > LIKELY
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("probability", [0.004, 0.5, 0.93])
def test_masks_have_the_asked_rate_and_independent_entries(source, probability):
    mask = source.bernoulli(COUNT, probability)
    assert (mask.dtype, mask.shape, mask.device) == (torch.bool, (COUNT,), CPU)
    hits = int(mask.sum())
    assert stats.binomtest(hits, COUNT, probability).pvalue > LIKELY
    both = int((mask[1:] & mask[:-1]).sum())
    # Neighbouring pairs share an entry. Where hits are few their number is that of Poisson, with a longer tail.
    variance = probability**2 * (1 - probability**2) + 2 * probability**3 * (1 - probability)
    assert both == pytest.approx(COUNT * probability**2, abs=6 * math.sqrt(COUNT * variance) + 8)
    assert not torch.equal(mask, source.bernoulli(COUNT, probability))


def test_a_wrong_rate_is_rejected(source):
    hits = int(source.bernoulli(COUNT, 0.5).sum())
    assert stats.binomtest(hits, COUNT, 0.56).pvalue < IMPOSSIBLE
    assert stats.binomtest(hits, COUNT, 0.44).pvalue < IMPOSSIBLE


def test_certain_masks_are_certain(source):
    assert bool(source.bernoulli(1000, 1.0).all())
    assert not bool(source.bernoulli(1000, 0.0).any())
    assert not bool(source.bernoulli(1000, 1e-15).any())


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,), (4, 0, 2), torch.Size([2, 1, 5])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_types_are_as_asked(source, shape, dtype):
    drawn = source.gaussian(shape, std=1.0, device=CPU, dtype=dtype)
    assert (drawn.shape, drawn.dtype, drawn.device) == (torch.Size(shape), dtype, CPU)
    assert bool(drawn.isfinite().all())
    assert not drawn.requires_grad


def test_single_precision_is_the_default(source):
    assert source.gaussian((2,), std=1.0, device=CPU).dtype == torch.float32


def test_a_mask_may_be_empty(source):
    assert source.bernoulli(0, 0.5).shape == (0,)


def test_no_noise_is_zero(source):
    assert not bool(source.gaussian((7,), std=0.0, device=CPU).any())


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf])
def test_scales_that_mean_nothing_are_refused(source, std):
    with pytest.raises(ValueError, match="standard deviation"):
        source.gaussian((2,), std=std, device=CPU)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_rates_that_mean_nothing_are_refused(source, probability):
    with pytest.raises(ValueError, match="probability"):
        source.bernoulli(2, probability)


def test_words_have_64_uniform_bits(source):
    (stream,) = source.streams(COUNT)
    words = stream.words(COUNT)
    assert (words.dtype, words.shape) == (np.uint64, (COUNT,))
    bits = np.unpackbits(words.view(np.uint8)).reshape(COUNT, 64)
    ones = bits.sum(axis=0, dtype=np.int64)
    assert min(stats.binomtest(int(one), COUNT).pvalue for one in ones) > LIKELY
    # A bit that is set in 53 of 100 words would be seen.
    assert stats.binomtest(int(1.06 * COUNT / 2), COUNT).pvalue < IMPOSSIBLE
    # Bits agree with others as often as not: over all 2016 pairs, by seven deviations.
    signs = bits.astype(np.float64) * 2 - 1
    assert np.abs(signs.T @ signs - COUNT * np.eye(64)).max() < 7 * math.sqrt(COUNT)


def test_words_are_new_at_each_call_and_in_each_stream(source):
    count = 1 << 20
    drawn = [stream.words(1000) for _ in range(2) for stream in (*source.streams(0), *source.streams(count))]
    assert len(np.unique(np.concatenate(drawn))) == 1000 * len(drawn)


def test_there_are_no_more_streams_than_threads(source):
    assert len(source.streams(1)) == 1
    assert 1 <= len(source.streams(1 << 20)) <= 3


def test_no_words_are_no_words(source):
    (stream,) = source.streams(0)
    assert (stream.words(0).dtype, stream.words(0).shape) == (np.uint64, (0,))


def test_torchs_own_generator_is_left_alone(source):
    before = torch.get_rng_state()
    draw(source)
    source.bernoulli(10, 0.5)
    source.streams(10)[0].words(10)
    assert torch.equal(torch.get_rng_state(), before)
