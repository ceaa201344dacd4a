"""What a server keeps of a client whose masked vector arrived, and the secrets of it that it puts together.

They are put together from the shares of the client's holders, and checked against what the client committed to.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedtrain.secagg.messages import DIGEST_BYTES, PAIR_BYTES, SEED_BYTES, commitment
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


@dataclass(kw_only=True)
class Survivor:
    """One client, and what others said of its secrets.

    Attributes:
        client: its number.
        holders: of its secrets, in order: its neighbours and itself.
        neighbours: clients that it shares masks with, in order.
        bundles: by holder, the encrypted shares.
        commitments: 32 bytes for its self-mask and for each neighbour in order.
        lost: neighbours whose vectors did not arrive, in order.
        shares: by holder, its share of the self-mask, and of the mask of each pair with a lost neighbour.
        unreadable: holders that say that their shares did not open.
    """

    client: int
    holders: tuple[int, ...]
    neighbours: tuple[int, ...]
    bundles: Mapping[int, bytes]
    commitments: bytes
    lost: tuple[int, ...] = ()
    shares: dict[int, bytes] = field(default_factory=dict, repr=False)
    unreadable: set[int] = field(default_factory=set)

    def recovered(
        self, *, binding: str, threshold: int, doubts: Collection[int], random: Callable[[int], bytes]
    ) -> tuple[dict[int, bytes], set[int]] | None:
        """Put the secrets together from the shares, of which there must be enough.

        Args:
            binding: hex SHA-256 that stands for the round.
            threshold: shares that a secret takes.
            doubts: clients whose shares of others' secrets did not fit.
            random: returns that many random bytes.

        Returns:
            The seeds of the self-mask, under the client's own number, and of the mask with each lost neighbour; and the
            holders whose shares certainly do not fit. ``None`` if the client committed to something else.
        """

        def right(secret: bytes) -> bool:
            return all(
                commitment(binding, self.client, peer, seed) == self._committed(peer)
                for peer, seed in self._seeds(secret).items()
            )

        number = {holder: place for place, holder in enumerate(self.holders, start=1)}
        found = recover(
            {number[holder]: share for holder, share in self.shares.items()},
            threshold=threshold,
            doubted={number[holder] for holder in self.holders if holder in doubts},
            right=right,
            random=random,
        )
        if found is None:
            return None
        return self._seeds(found.secret), {self.holders[wrong - 1] for wrong in found.wrong}

    def _seeds(self, secret: bytes) -> dict[int, bytes]:
        seeds = {self.client: secret[:SEED_BYTES]}
        for place, peer in enumerate(self.lost):
            seeds[peer] = secret[SEED_BYTES + PAIR_BYTES * place :][:PAIR_BYTES]
        return seeds

    def _committed(self, peer: int) -> bytes:
        place = 0 if peer == self.client else self.neighbours.index(peer) + 1
        return self.commitments[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]


def shortage(survivors: Iterable[Survivor], threshold: int, silent: Collection[int]) -> str:
    """Say whose secrets have fewer shares than they take, and why.

    Args:
        survivors: all of a round.
        threshold: shares that a secret takes.
        silent: survivors that gave no shares.
    """
    short = [survivor for survivor in survivors if len(survivor.shares) < threshold]
    said = [f"the secrets of {names(survivor.client for survivor in short)} take {threshold} shares each"]
    said += [
        f"the shares of client {survivor.client} could not be read by {names(survivor.unreadable)}: either may be at "
        "fault"
        for survivor in short
        if survivor.unreadable
    ]
    if silent:
        said.append(f"no shares came from {names(silent)}")
    return "; ".join(said)


def names(clients: Iterable[int]) -> str:
    """Return how clients are named in an error: in order."""
    numbers = sorted(clients)
    return ("client " if len(numbers) == 1 else "clients ") + ", ".join(map(str, numbers))
