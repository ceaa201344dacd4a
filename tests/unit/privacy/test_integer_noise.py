"""Integer noise beside its table, which test_integer_tables.py compares with the exact probabilities."""

import bisect
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import kolmogorov

from fedtrain.privacy.integer_noise import IntegerNoise, _table, draw
from fedtrain.privacy.integer_tables import BITS, thresholds
from fedtrain.privacy.noise import SecureSource, SeededSource, open_source
from tests.forks import in_a_child

KINDS = ("skellam", "discrete-gaussian")
# A deviation of 20 grid steps, and so many values that a variance which is off by a thousandth is off by eight of its
# estimate's deviations.
VARIANCE, MANY, PLANTED = 400.0, 1 << 27, 1.001
# With these seeds what is right is not rejected at the first level, and what is wrong is at the second or the third.
LIKELY, UNLIKELY, IMPOSSIBLE = 1e-2, 1e-4, 1e-6
WORD = (1 << 64) - 1


@pytest.fixture
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Words:
    """A source of one stream that gives the words it was made with, and no others."""

    name = "seeded"

    def __init__(self, words):
        self.left = [int(word) for word in words]

    def streams(self, count):
        return [self]

    def words(self, count):
        given, self.left = self.left[:count], self.left[count:]
        assert len(given) == count
        return np.array(given, dtype=np.uint64)


def whole(noise):
    """The thresholds as whole numbers of 127 bits."""
    upper, lower = thresholds(noise.kind, noise.variance)
    return [(int(high) << 64) + int(low) for high, low in zip(upper, lower, strict=True)]


def cumulative(noise, most):
    """The probabilities of values of at most -most, ..., most by the table of the noise, float64."""
    ends = np.array([0.0, *(end / 2**BITS for end in whole(noise)), 1.0])
    halves = np.diff(ends) / 2
    own = np.cumsum(np.concatenate([halves[:0:-1], [2 * halves[0]], halves[1:]]))
    places = np.arange(-most, most + 1) + noise.most
    return np.where(places < 0, 0.0, own[places.clip(0, len(own) - 1)])


def count_up(values, most):
    """How often -most, ..., most are among the values."""
    return np.bincount(values + np.int64(most), minlength=2 * most + 1)


def chi_square(found, expected, bins, span=3.5):
    """The probability of so large a chi-square statistic over bins of one width, within so many deviations, and two."""
    count, most = found.sum(), len(found) // 2
    likely = np.diff(expected, prepend=0.0)
    edge = span * math.sqrt(likely @ np.arange(-most, most + 1.0) ** 2)
    inner = np.unique(np.linspace(-edge, edge, bins + 1).round().astype(int))
    edges = [0, *(inner + most), len(found)]
    observed = [found[start:end].sum() for start, end in pairwise(edges)]
    awaited = np.array([likely[start:end].sum() for start, end in pairwise(edges)])
    return stats.chisquare(observed, awaited * (count / awaited.sum())).pvalue


def scale_test(found, noise):
    """The probability of squares whose mean is so far from the variance."""
    values = np.arange(-noise.most, noise.most + 1.0)
    likely = np.diff(cumulative(noise, noise.most), prepend=0.0)
    second, fourth = likely @ values**2, likely @ values**4
    return 2 * stats.norm.sf(
        abs(found @ values**2 / found.sum() - second) / math.sqrt((fourth - second**2) / found.sum())
    )


def kolmogorov_smirnov(found, expected):
    """At least the probability of so large a distance: for discrete values it is smaller."""
    count = found.sum()
    return kolmogorov(math.sqrt(count) * np.abs(np.cumsum(found) / count - expected).max())


@pytest.fixture(scope="module", params=KINDS)
def drawn(request):
    """A noise, and how often each value was drawn of it."""
    noise = IntegerNoise(kind=request.param, variance=VARIANCE)
    source, part = SeededSource(5), 1 << 20
    return noise, sum(count_up(draw(noise, part, source), noise.most) for _ in range(MANY // part))


def test_values_have_the_distribution_of_the_table(drawn):
    noise, found = drawn
    expected = cumulative(noise, noise.most)
    assert found.sum() == MANY
    assert chi_square(found, expected, 14) > LIKELY
    assert chi_square(found, expected, 200, span=4.5) > LIKELY
    assert kolmogorov_smirnov(found, expected) > LIKELY
    assert scale_test(found, noise) > LIKELY


@pytest.mark.parametrize("planted", [PLANTED, 1 / PLANTED])
def test_a_variance_that_is_off_by_a_thousandth_is_rejected(drawn, planted):
    noise, found = drawn
    wrong = IntegerNoise(kind=noise.kind, variance=noise.variance * planted)
    assert chi_square(found, cumulative(wrong, noise.most), 14) < UNLIKELY
    # Squares alone are sharper.
    wider = np.pad(found, max(0, wrong.most - noise.most))
    assert scale_test(wider[len(wider) // 2 - wrong.most :][: 2 * wrong.most + 1], wrong) < IMPOSSIBLE


@pytest.mark.parametrize("planted", [1.01, 1 / 1.01])
def test_kolmogorov_and_smirnov_see_a_hundredth(drawn, planted):
    noise, found = drawn
    expected = cumulative(IntegerNoise(kind=noise.kind, variance=noise.variance * planted), noise.most)
    assert kolmogorov_smirnov(found, expected) < IMPOSSIBLE


def test_values_are_as_often_negative_as_positive(drawn):
    noise, found = drawn
    negative, positive = found[: noise.most][::-1], found[noise.most + 1 :]
    often = slice(0, 4 * math.isqrt(int(VARIANCE)))
    both = (negative + positive)[often]
    assert both.min() > 50
    assert stats.chi2.sf(((negative - positive)[often] ** 2 / both).sum(), len(both)) > LIKELY
    # One in a thousand of the positive that is negative is seen.
    moved = positive // 1000
    assert stats.chi2.sf(((negative - positive + 2 * moved)[often] ** 2 / both).sum(), len(both)) < IMPOSSIBLE


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_family_of_one_variance_is_rejected(kind):
    noise = IntegerNoise(kind=kind, variance=4.0)
    found = count_up(draw(noise, 1 << 20, SeededSource(5)), noise.most)
    other = IntegerNoise(kind=next(each for each in KINDS if each != kind), variance=4.0)
    assert chi_square(found, cumulative(noise, noise.most), 14) > LIKELY
    assert chi_square(found, cumulative(other, noise.most), 14) < IMPOSSIBLE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [4.0, 390.5, 5000.0**2])
def test_a_value_is_the_number_of_thresholds_that_are_at_most_its_uniform(kind, variance):
    noise = IntegerNoise(kind=kind, variance=variance)
    words = np.random.default_rng(1).integers(0, 1 << 64, 20_000, dtype=np.uint64)
    ends = whole(noise)
    expected = [
        bisect.bisect_right(ends, (int(word) >> 1) << 64) * (-1 if word & np.uint64(1) else 1) for word in words
    ]
    source = Words(words)
    assert draw(noise, len(words), source).tolist() == expected
    assert source.left == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [4.0, 390.5, 5000.0**2])
def test_ties_are_decided_by_a_second_word(kind, variance):
    noise = IntegerNoise(kind=kind, variance=variance)
    ends = whole(noise)
    # Likely magnitudes, for which there are shortcuts, and those of the tail.
    for magnitude in {0, 1, 2, int(variance**0.5), int(3 * variance**0.5), int(5 * variance**0.5)}:
        upper, lower = ends[magnitude] >> 64, ends[magnitude] & WORD
        assert 0 < lower < WORD
        for second, expected in ((lower - 1, magnitude), (lower, magnitude + 1), (lower + 1, magnitude + 1)):
            for sign in (0, 1):
                source = Words([upper << 1 | sign, second])
                assert draw(noise, 1, source).tolist() == [-expected if sign else expected]
                assert source.left == []
        # One of 63 bits less or more takes no second word.
        for first, expected in ((upper - 1, magnitude), (upper + 1, magnitude + 1)):
            assert draw(noise, 1, Words([first << 1])).tolist() == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_uniforms_that_share_what_is_compared_first_are_told_apart(kind):
    noise = IntegerNoise(kind=kind, variance=100.0)
    table, ends = _table(kind, 100.0), whole(noise)
    unused = 63 - table.bits - 32
    for magnitude in range(30):
        upper = ends[magnitude] >> 64
        start = upper >> unused << unused
        assert start < upper < start + (1 << unused) - 1
        assert draw(noise, 2, Words([start << 1, (start + (1 << unused) - 1) << 1])).tolist() == [
            magnitude,
            magnitude + 1,
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [4.0, 390.5, 5000.0**2])
def test_the_ends_of_the_uniforms_are_zero_and_most(kind, variance):
    noise = IntegerNoise(kind=kind, variance=variance)
    assert draw(noise, 2, Words([0, 1])).tolist() == [0, 0]
    assert draw(noise, 1, Words([WORD - 1, WORD])).tolist() == [noise.most]
    assert draw(noise, 1, Words([WORD, WORD])).tolist() == [-noise.most]


@pytest.mark.parametrize("kind", KINDS)
def test_consecutive_values_are_independent(kind):
    noise = IntegerNoise(kind=kind, variance=2500.0)
    values = draw(noise, 1 << 20, SeededSource(6))
    places = np.searchsorted(np.quantile(values, np.arange(1, 8) / 8), values)
    for one, other in ((places[::2], places[1::2]), (places[: 1 << 19], places[1 << 19 :])):
        assert stats.chi2_contingency(np.bincount(8 * one + other, minlength=64).reshape(8, 8)).pvalue > LIKELY
    # Nearly as often as not, a value has the sign of the one before: shows that this can fail.
    copied = np.where(np.arange(1 << 20) % 200 == 1, np.roll(values, 1), values)
    places = np.searchsorted(np.quantile(values, np.arange(1, 8) / 8), copied)
    assert stats.chi2_contingency(np.bincount(8 * places[::2] + places[1::2]).reshape(8, 8)).pvalue < IMPOSSIBLE


@pytest.mark.parametrize(("shares", "variance"), [(2, 8.0), (7, 300.0), (100, 25.0)])
def test_sums_of_skellam_shares_are_skellam(shares, variance):
    share, total = (IntegerNoise(kind="skellam", variance=each) for each in (variance / shares, variance))
    source, count = SeededSource(7), 1 << 20
    sums = sum(draw(share, count, source) for _ in range(shares))
    assert np.abs(sums).max() <= total.most
    found = count_up(sums, total.most)
    assert chi_square(found, cumulative(total, total.most), 30) > LIKELY
    for wrong in (0.98, 1.02):
        other = IntegerNoise(kind="skellam", variance=variance * wrong)
        assert chi_square(found, cumulative(other, total.most), 30) < IMPOSSIBLE


@pytest.mark.parametrize("kind", KINDS)
def test_secure_values_have_the_moments(kind):
    noise, count = IntegerNoise(kind=kind, variance=VARIANCE), 1 << 21
    values = draw(noise, count, SecureSource()) / math.sqrt(VARIANCE)
    excess = 1 / VARIANCE if kind == "skellam" else 0.0
    # Each by 7.5 of its own deviations, which happens in one of 1e13 runs.
    allowed = 7.5 / math.sqrt(count)
    assert abs(values.mean()) < allowed
    assert abs((values**2).mean() - 1) < allowed * math.sqrt(2.1)
    assert abs((values**3).mean()) < allowed * math.sqrt(16)
    assert abs((values**4).mean() - 3 - excess) < allowed * math.sqrt(98)
    # A variance that is off by two in a hundred is outside.
    assert abs(1.02 * (values**2).mean() - 1) > allowed * math.sqrt(2.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats_the_values_in_any_parts_and_threads(kind, keep_threads):
    noise = IntegerNoise(kind=kind, variance=77.0)
    together = draw(noise, 300_000, SeededSource(3))
    torch.set_num_threads(3)
    source = SeededSource(3)
    parts = [draw(noise, count, source) for count in (1, 0, 99_999, 200_000)]
    assert np.array_equal(np.concatenate(parts), together)
    assert not np.array_equal(draw(noise, 300_000, SeededSource(4)), together)
    assert not np.array_equal(draw(noise, 300_000, source), together)


def test_threads_draw_from_streams_of_their_own(keep_threads):
    torch.set_num_threads(3)
    # Wide noise, of which equal values in two streams are rare.
    noise, source = IntegerNoise(kind="skellam", variance=2.0**24), SecureSource()
    values = draw(noise, 300_000, source)
    assert len(source.streams(300_000)) == 3
    keys = {stream.words(4).tobytes() for stream in source.streams(300_000)}
    assert len(keys) == 3
    chunks = values[: 36 << 13].reshape(36, 1 << 13)
    correlation = np.corrcoef(chunks) - np.eye(36)
    assert np.abs(correlation).max() < 8 / 2**6.5
    assert abs(values.std() / 2**12 - 1) < 8 / math.sqrt(600_000)


def test_small_draws_take_one_stream(keep_threads):
    torch.set_num_threads(3)
    assert [len(SecureSource().streams(count)) for count in (0, 1000, 1 << 20)] == [1, 1, 3]


@pytest.mark.parametrize("name", ["seeded", "secure"])
def test_values_are_int32_of_the_count(name):
    source = open_source(name, 0)
    for count in (0, 1, 8191, 8192, 8193):
        values = draw(IntegerNoise(kind="skellam", variance=9.0), count, source)
        assert (values.dtype, values.shape) == (np.int32, (count,))


def test_the_noise_of_the_largest_variance_is_drawn():
    noise = IntegerNoise(kind="discrete-gaussian", variance=2.0**34)
    values = draw(noise, 1 << 16, SeededSource(2))
    assert abs(values.std() / 2**17 - 1) < 6 / math.sqrt(2 << 16)
    assert noise.most < 2**21


def test_tables_are_made_once_and_cannot_be_changed():
    table = _table("skellam", 50.0)
    assert _table("skellam", 50.0) is table
    for array in (table.upper, table.lower, table.shortcuts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("kind", ["gaussian", "", None])
def test_another_kind_is_refused(kind):
    with pytest.raises(ValueError, match="unknown: it is one of skellam, discrete-gaussian"):
        IntegerNoise(kind=kind, variance=10.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [0.0, -4.0, 2.0**-11, 2.0**35, math.nan, math.inf])
def test_a_variance_without_a_proof_is_refused(kind, variance):
    with pytest.raises(ValueError, match=f"{kind} noise with a variance of .* is not allowed"):
        IntegerNoise(kind=kind, variance=variance)


def test_a_discrete_gaussian_below_two_steps_is_refused():
    with pytest.raises(ValueError, match="from 4 to"):
        IntegerNoise(kind="discrete-gaussian", variance=3.99)
    assert IntegerNoise(kind="skellam", variance=2.0**-10).most < 62


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="-1 values"):
        draw(IntegerNoise(kind="skellam", variance=9.0), -1, SeededSource(0))


def test_other_draws_of_a_seed_change_no_values():
    noise, one, other = IntegerNoise(kind="skellam", variance=9.0), SeededSource(3), SeededSource(3)
    one.bernoulli(7, 0.5)
    one.gaussian((3,), std=1.0, device=torch.device("cpu"))
    assert np.array_equal(draw(noise, 50, one), draw(noise, 50, other))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_draws_other_values():
    noise, source = IntegerNoise(kind="skellam", variance=1e6), SecureSource()
    draw(noise, 1, source)
    children = [in_a_child(lambda: draw(noise, 20, source).tobytes()) for _ in range(2)]
    drawn = [*children, draw(noise, 20, source).tobytes()]
    assert [len(each) for each in drawn] == [80] * 3
    assert len(set(drawn)) == 3
