"""Secrets split so that some of the shares give them back and fewer say nothing (Shamir 1979), byte by byte in GF(256).

The field is that of AES (polynomial 0x11b). Of secrets of many bytes each byte has a polynomial of its own, and the
holder with the number x has the values at x of all of them. Holders are numbered from 1, so that there are at most 255.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MOST_HOLDERS = 255

_POLYNOMIAL = 0x11B
_GENERATOR = 3
_ORDER = 255


def _tables() -> tuple[Bytes, NDArray[np.int64]]:
    powers, logarithms, power = np.zeros(2 * _ORDER, dtype=np.uint8), np.zeros(256, dtype=np.int64), 1
    for exponent in range(_ORDER):
        powers[exponent] = powers[exponent + _ORDER] = power
        logarithms[power] = exponent
        double = power << 1
        power ^= double ^ _POLYNOMIAL if double > MOST_HOLDERS else double  # times 3
    return powers, logarithms


_POWERS, _LOGARITHMS = _tables()
PRODUCTS: Bytes = _POWERS[_LOGARITHMS[:, None] + _LOGARITHMS]
PRODUCTS[0] = PRODUCTS[:, 0] = 0
_TABLES = [row.tobytes() for row in PRODUCTS]


def split(secret: bytes, *, threshold: int, holders: int, random: Callable[[int], bytes]) -> list[bytes]:
    """Return the shares of the holders 1, 2, ...; each is as long as the secret.

    Any ``threshold`` of them give the secret back; fewer are uniformly random bytes, whatever the secret.

    Args:
        secret: what is split.
        threshold: from 1 to ``holders``.
        holders: at most 255.
        random: returns that many secret, uniformly random bytes.
    """
    length = len(secret)
    coefficients = np.frombuffer(secret + random((threshold - 1) * length), dtype=np.uint8).reshape(threshold, length)
    return [share.tobytes() for share in _everywhere(coefficients, holders.bit_length())[1 : holders + 1]]


def _everywhere(coefficients: Bytes, bits: int) -> Bytes:
    """Return the values of polynomials at 0, 1, ..., 2^bits - 1: uint8, shape (2^bits, length).

    By the additive Fourier transform of Gao and Mateer 2010, "Additive fast Fourier transforms over finite fields",
    algorithm 2: the numbers below 2^bits are a vector space over GF(2), whose n values take some n log(n) products of a
    row, and not n for each coefficient.

    Args:
        coefficients: uint8, shape (degree + 1, length), that of x^0 first; at most 2^bits.
        bits: at most 8.
    """
    # All polynomials of a level at once: shape (coefficients, polynomials, length), and then (places, ...).
    rows = np.zeros((1 << bits, 1, coefficients.shape[1]), dtype=np.uint8)
    rows[: len(coefficients), 0] = coefficients
    levels = _levels(bits)
    for scales, _ in levels:
        for row, scale in zip(rows, scales, strict=True):
            row[:] = _times(scale, row)
        _expand(rows)
        rows = np.concatenate([rows[0::2], rows[1::2]], axis=1)
    for _, places in reversed(levels):
        half = rows.shape[1] // 2
        even, odd = rows[:, :half], rows[:, half:]
        rows = np.empty((2 * len(places), half, coefficients.shape[1]), dtype=np.uint8)
        for place, low, constant, linear in zip(places, rows, even, odd, strict=False):
            np.bitwise_xor(constant, _times(place, linear), out=low)
        np.bitwise_xor(rows[: len(places)], odd, out=rows[len(places) :])
    return rows[:, 0]


def _times(factor: np.uint8, row: Bytes) -> Bytes:
    """Return a factor times each byte. Python translates bytes faster than numpy, whose indices are words."""
    return np.frombuffer(row.tobytes().translate(_TABLES[factor]), dtype=np.uint8).reshape(row.shape)


def _expand(rows: Bytes) -> None:
    """Bring polynomials from powers of x to products of x^0 or x^1 with powers of x^2 + x, in place (algorithm 1)."""
    size = len(rows)
    while size > 2:  # noqa: PLR2004 - with two coefficients both are the same
        blocks, quarter = rows.reshape(len(rows) // size, size, *rows.shape[1:]), size // 4
        blocks[:, 2 * quarter : 3 * quarter] ^= blocks[:, 3 * quarter :]
        blocks[:, quarter : 2 * quarter] ^= blocks[:, 2 * quarter : 3 * quarter]
        size //= 2


@lru_cache(maxsize=8)
def _levels(bits: int) -> tuple[tuple[Bytes, Bytes], ...]:
    """Return for each level what scales the coefficients, and the places of the lower half of the points, scaled."""
    basis = [1 << bit for bit in range(bits)]
    levels = []
    for level in range(bits):
        last = int(_LOGARITHMS[basis.pop()])
        scales = _POWERS[last * np.arange(1 << (bits - level)) % _ORDER]
        others = [int(_POWERS[(_LOGARITHMS[each] - last) % _ORDER]) for each in basis]
        places = np.zeros(1, dtype=np.uint8)
        for other in others:
            places = np.concatenate([places, places ^ np.uint8(other)])
        levels.append((scales, places))
        basis = [int(PRODUCTS[other, other]) ^ other for other in others]
    return tuple(levels)


def evaluate(holders: tuple[int, ...], shares: Bytes, at: tuple[int, ...]) -> Bytes:
    """Return the values at some places of the polynomials of least degree through the shares; at 0 it is the secret.

    Args:
        holders: distinct numbers from 0 to 255.
        shares: uint8, shape (holders, length).
        at: where.

    Returns:
        uint8, shape (places, length).
    """
    result = np.zeros((len(at), shares.shape[1]), dtype=np.uint8)
    for weights, share in zip(_weights(holders, at).T, shares, strict=True):
        result ^= PRODUCTS[weights[:, None], share]
    return result


@lru_cache(maxsize=8)
def _weights(holders: tuple[int, ...], at: tuple[int, ...]) -> Bytes:
    """Return the values of the Lagrange polynomials: uint8, shape (places, holders)."""
    x, places = np.array(holders), np.array(at, dtype=np.int64)
    others = ~np.eye(len(x), dtype=bool)
    below = np.where(others, _LOGARITHMS[x[:, None] ^ x], 0).sum(axis=1)
    distances = places[:, None] ^ x
    logarithms = _LOGARITHMS[distances]
    above = logarithms.sum(axis=1, keepdims=True) - logarithms
    weights: Bytes = _POWERS[(above - below) % _ORDER]
    # At a holder's own place the others' polynomials are 0: a distance of 0 has no logarithm.
    own = distances == 0
    weights[own.any(axis=1)] = 0
    weights[own] = 1
    return weights


def suspects(holders: Sequence[int], shares: Bytes, *, threshold: int, random: Callable[[int], bytes]) -> set[int]:
    """Return holders without whom the shares agree, if at most (holders - threshold) / 2 of the shares are wrong.

    That is the decoding of Reed-Solomon codes by Berlekamp and Welch (US patent 4,633,470): with P the polynomial and E
    one whose zeros are the wrong holders, the value y at x has P(x) E(x) = y E(x), which is linear in the coefficients
    of E and of P E. It is done once, for a random combination of all bytes, in which a wrong share stays a wrong one
    but for a chance of 1 in 256; the caller has to check the result.

    Args:
        holders: distinct numbers from 1 to 255, at least ``threshold`` of them.
        shares: uint8, shape (holders, length).
        threshold: how many shares a secret takes.
        random: returns that many uniformly random bytes.
    """
    errors = (len(holders) - threshold) // 2
    x = np.array(holders, dtype=np.uint8)
    factors = np.frombuffer(random(shares.shape[1]), dtype=np.uint8)
    combined = np.bitwise_xor.reduce(PRODUCTS[factors, shares], axis=1)
    powers = np.ones((len(x), threshold + errors), dtype=np.uint8)
    for column in range(1, powers.shape[1]):
        powers[:, column] = PRODUCTS[powers[:, column - 1], x]
    locator = _null_vector(np.hstack([PRODUCTS[combined[:, None], powers[:, : errors + 1]], powers]))[: errors + 1]
    values = np.bitwise_xor.reduce(PRODUCTS[locator, powers[:, : errors + 1]], axis=1)
    return {holder for holder, value in zip(holders, values, strict=True) if value == 0}


def _null_vector(matrix: Bytes) -> Bytes:
    """Return a vector that the matrix takes to 0, not itself 0 if there is one. The matrix is changed."""
    columns = matrix.shape[1]
    pivots: list[int] = []
    for column in range(columns):
        row = len(pivots)
        nonzero = np.flatnonzero(matrix[row:, column])
        if not len(nonzero):
            vector = np.zeros(columns, dtype=np.uint8)
            vector[column] = 1
            vector[pivots] = matrix[:row, column]
            return vector
        matrix[[row, row + nonzero[0]]] = matrix[[row + nonzero[0], row]]
        matrix[row] = PRODUCTS[_POWERS[_ORDER - _LOGARITHMS[matrix[row, column]]], matrix[row]]
        factors = matrix[:, column].copy()
        factors[row] = 0
        matrix ^= PRODUCTS[factors[:, None], matrix[row]]
        pivots.append(column)
    return np.zeros(columns, dtype=np.uint8)
