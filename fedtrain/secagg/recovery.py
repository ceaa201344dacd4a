"""Secrets of one client, put together from its holders' shares and checked against what it committed to."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedtrain.secagg.shamir import Bytes, evaluate, suspects

_TRIES = 4
"""A random combination of bytes hides a wrong share with a chance of 1 in 256."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What the shares say.

    Attributes:
        secret: the secrets, one after the other.
        wrong: holders (their numbers) whose shares do not fit them, if that is certain. It does not say whose fault it
            is: a share is made by the owner of the secret.
    """

    secret: bytes = field(repr=False)
    wrong: frozenset[int]


def recover(
    shares: Mapping[int, bytes],
    *,
    threshold: int,
    doubted: Collection[int],
    right: Callable[[bytes], bool],
    random: Callable[[int], bytes],
) -> Recovered | None:
    """Return the secret, or ``None`` if it cannot be found.

    It is found whenever at most half of the shares beyond the threshold are wrong, and then the wrong ones are known:
    one polynomial agrees with so many shares. If more are wrong it may be found, too, as its owner's commitment tells.
    No holder is then named: liars can choose errors that cancel in the secret, and that make others look wrong.

    Args:
        shares: by number of the holder, at least ``threshold``, all of one length.
        threshold: how many a secret takes.
        doubted: holders whose shares of others' secrets were wrong: those of the rest are tried first.
        right: whether a secret is what its owner committed to.
        random: returns that many random bytes.
    """
    holders = sorted(shares, key=lambda holder: (holder in doubted, holder))
    matrix = np.frombuffer(b"".join(shares[holder] for holder in holders), dtype=np.uint8)
    matrix = matrix.reshape(len(holders), -1)
    certain = (len(holders) - threshold) // 2
    found = _interpolated(holders, matrix, threshold, right)
    for _ in range(_TRIES if certain else 0):
        if found is not None and len(found.wrong) <= certain:
            break
        out = suspects(holders, matrix, threshold=threshold, random=random)
        order = sorted(range(len(holders)), key=lambda place: holders[place] in out)
        found = _interpolated([holders[place] for place in order], matrix[order], threshold, right) or found
    if found is None or len(found.wrong) <= certain:
        return found
    return Recovered(secret=found.secret, wrong=frozenset())


def _interpolated(
    holders: list[int], shares: Bytes, threshold: int, right: Callable[[bytes], bool]
) -> Recovered | None:
    """Take the first shares for right, and say which of the others are not, if the secret then is."""
    others = holders[threshold:]
    values = evaluate(tuple(holders[:threshold]), shares[:threshold], (0, *others))
    secret = values[0].tobytes()
    if not right(secret):
        return None
    differ = (values[1:] != shares[threshold:]).any(axis=1)
    return Recovered(secret=secret, wrong=frozenset(np.array(others, dtype=int)[differ].tolist()))
