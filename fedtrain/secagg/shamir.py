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
_FLAT = PRODUCTS.ravel()


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
    # Horner's rule, for all holders together. A flat table is looked up faster than one of two dimensions.
    numbers = 256 * np.arange(1, holders + 1)[:, None]
    shares: Bytes = np.broadcast_to(coefficients[-1], (holders, length))
    for row in coefficients[-2::-1]:
        shares = _FLAT.take(numbers + shares) ^ row
    return [share.tobytes() for share in shares]


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
