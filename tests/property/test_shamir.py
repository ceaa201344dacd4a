"""The field, the shares, and what fewer of them than the threshold say."""

from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedtrain.secagg.shamir import PRODUCTS, evaluate, split, suspects
from tests.unit.secagg.federation import stream

LIKELY, IMPOSSIBLE = 1e-6, 1e-9


def slow_product(one, other):
    """Multiply polynomials over GF(2), and reduce by that of AES (FIPS 197, section 4.2)."""
    product = 0
    for bit in range(8):
        if other >> bit & 1:
            product ^= one << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


def as_array(shares):
    return np.array([list(share) for share in shares], dtype=np.uint8)


def joined(shares, holders):
    return evaluate(tuple(holders), as_array(shares[holder - 1] for holder in holders), (0,))[0].tobytes()


def test_products_are_those_of_the_field():
    for one in range(256):
        assert PRODUCTS[one].tolist() == [slow_product(one, other) for other in range(256)]


def test_a_product_of_fips_197_section_4_2():
    assert PRODUCTS[0x57, 0x83] == 0xC1
    assert PRODUCTS[0x57, 0x13] == 0xFE


def test_a_share_is_the_value_of_the_polynomial():
    shares = split(b"\x42", threshold=3, holders=255, random=lambda size: bytes(range(7, 7 + size)))
    for x, share in enumerate(shares, start=1):
        assert share[0] == 0x42 ^ slow_product(x, 7) ^ slow_product(slow_product(x, x), 8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), secret=st.binary(max_size=20), holders=st.integers(1, 255))
def test_shares_are_the_values_by_the_rule_of_horner(data, secret, holders):
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold=threshold, holders=holders, random=stream("shares"))
    later = stream("shares")((threshold - 1) * len(secret))
    rows = as_array([secret, *(later[k * len(secret) : (k + 1) * len(secret)] for k in range(threshold - 1))])
    x = np.arange(1, holders + 1)[:, None]
    values = np.zeros((holders, len(secret)), dtype=np.uint8)
    for row in rows[::-1]:
        values = PRODUCTS[x, values] ^ row
    np.testing.assert_array_equal(as_array(shares), values)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), secret=st.binary(min_size=1, max_size=40), holders=st.integers(1, 255))
def test_any_threshold_of_shares_gives_the_secret_back(data, secret, holders):
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold=threshold, holders=holders, random=stream("shares"))
    assert [len(share) for share in shares] == [len(secret)] * holders
    order = data.draw(st.permutations(range(1, holders + 1)))
    for chosen in (order[:threshold], order):
        assert joined(shares, chosen) == secret
    # And every other share.
    values = evaluate(tuple(order[:threshold]), as_array(shares[h - 1] for h in order[:threshold]), tuple(order))
    np.testing.assert_array_equal(values, as_array(shares[h - 1] for h in order))


def test_every_set_of_shares_of_a_small_split():
    secret = bytes(range(48))
    shares = split(secret, threshold=4, holders=7, random=stream("shares"))
    for chosen in combinations(range(1, 8), 4):
        assert joined(shares, chosen) == secret
    assert sum(joined(shares, chosen) == secret for chosen in combinations(range(1, 8), 3)) == 0


def sample(random, holders=(2, 3), count=40_000):
    """Return the shares of t - 1 holders of one byte, as many times."""
    shares = split(bytes([42]) * count, threshold=3, holders=3, random=random)
    return [np.frombuffer(shares[holder - 1], dtype=np.uint8) for holder in holders]


def test_fewer_shares_than_the_threshold_are_uniform_whatever_the_secret():
    one, other = sample(stream("shares"))
    for values in (one, other, one ^ other, PRODUCTS[one, 3] ^ PRODUCTS[other, 2]):
        assert stats.chisquare(np.bincount(values, minlength=256)).pvalue > LIKELY
    # Together, too: in coarse cells, of which each is hit often.
    cells = np.bincount((one >> 4).astype(int) * 16 + (other >> 4), minlength=256)
    assert stats.chisquare(cells).pvalue > LIKELY


def test_a_constant_coefficient_is_rejected():
    drawn = stream("shares")

    def planted(size):
        return bytes(size // 2) + drawn(size - size // 2)

    def planted_high(size):
        return drawn(size // 2) + bytes(size - size // 2)

    for random in (planted, planted_high):
        one, other = sample(random)
        cells = np.bincount((one >> 4).astype(int) * 16 + (other >> 4), minlength=256)
        assert stats.chisquare(cells).pvalue < IMPOSSIBLE


@settings(max_examples=60, deadline=None)
@given(data=st.data(), threshold=st.integers(1, 40), surplus=st.integers(2, 30))
def test_wrong_shares_are_found_up_to_half_of_the_surplus(data, threshold, surplus):
    holders, random = threshold + surplus, stream("errors")
    shares = split(random(20), threshold=threshold, holders=holders, random=random)
    wrong = data.draw(st.sets(st.integers(1, holders), max_size=surplus // 2))
    matrix = as_array(shares)
    for holder in wrong:
        matrix[holder - 1] ^= np.frombuffer(random(20), dtype=np.uint8)
    out = suspects(range(1, holders + 1), matrix, threshold=threshold, random=random)
    # A random combination hides an error with a chance of 1 in 256; whoever is not suspected is enough, all the same.
    assert len(out) <= surplus // 2 or not wrong
    if len(wrong) == surplus // 2:
        again = [suspects(range(1, holders + 1), matrix, threshold=threshold, random=random) for _ in range(8)]
        assert Counter(map(frozenset, [out, *again])).most_common(1)[0][0] == wrong
