"""What a server keeps of a client whose masked vector arrived, and the secrets of it that it puts together."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fedtrain.secagg.binding import DIGEST_BYTES, PAIR_BYTES, SEED_BYTES, commitment
from fedtrain.secagg.recovery import recover


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
