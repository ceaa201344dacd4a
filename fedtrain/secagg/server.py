"""The server's half of secure aggregation, without input or output: typed messages in, typed messages out.

One object is one round. `request` goes to each client of the cohort; each answer goes to `receive`, which adds it to
the sum and keeps nothing of it but its shares; `close` ends the first exchange and returns what to send to each
survivor; each answer goes to `receive_shares`; `finish` takes off the masks that did not cancel. What is learned is the
sum over the survivors, and `fedtrain.secagg.client` says on what condition nothing else.

Rules. A message is counted once, in its exchange, from a client that it was asked of; a message that breaks a rule is
refused with a `TransportError`, and the round is then what it was. The sum is exact or there is none: each secret that
is put together from shares is compared with its owner's commitment to it. Wrong shares are found if they are no
more than half of those beyond the threshold, and reported with both who gave and who made them, since either may be at
fault; so are shares that a holder could not open. A round without enough survivors or shares, or with a secret that
cannot be put together, ends with an `AggregationError` that names who is missing or whose it is, and the next round can
begin.

Memory: one vector of words whatever the number of clients, and the encrypted shares of n clients with k neighbours,
about 16 n k^2 bytes. The caller authenticates the messages: here a client is a number.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtrain.crypto import SignedEnvelope, apply_mask
from fedtrain.errors import AggregationError, ConfigError, TransportError
from fedtrain.secagg.graph import Graph
from fedtrain.secagg.messages import (
    DIGEST_BYTES,
    PAIR_BYTES,
    SEED_BYTES,
    MaskedVector,
    MaskRequest,
    UnmaskedShares,
    UnmaskRequest,
    binding_of,
    bundle_bytes,
    order_seed,
)
from fedtrain.secagg.parameters import Parameters
from fedtrain.secagg.quantization import add_packed, extend_sign
from fedtrain.secagg.recovery import Survivor, names, shortage


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregate:
    """The end of a round.

    Attributes:
        total: uint32, shape (length,): the sum of the survivors' vectors as two's complements of 32 bits.
        survivors: whose vectors are in it, in order.
        silent: survivors that gave no shares.
        doubts: pairs of a holder and an owner, in order: the share of the owner's secrets that the holder gave did not
            fit the others, as far as that is certain, or the holder said that it could not open it. Either of the two
            may be at fault: the owner made the share, and nobody else has seen it.
    """

    total: NDArray[np.uint32]
    survivors: tuple[int, ...]
    silent: tuple[int, ...]
    doubts: tuple[tuple[int, int], ...]


class ServerRound:
    """One round of secure aggregation."""

    def __init__(
        self,
        *,
        run: str,
        session: str,
        number: int,
        parameters: Parameters,
        work: str,
        announcements: Mapping[int, SignedEnvelope],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Begin a round.

        Args:
            run: id of the run.
            session: id of the session.
            number: of the round, larger than those before it in the session.
            parameters: what the round is about.
            work: hex SHA-256 of all that the members are asked to do, the same for all: their masks are bound to it.
            announcements: verified announcements of the session keys of the cohort, by client.
            random: returns that many random bytes; they decide nothing but how wrong shares are looked for.

        Raises:
            ConfigError: the parameters are for another number of clients.
        """
        if len(announcements) != parameters.members:
            raise ConfigError(f"parameters for {parameters.members} members, and a cohort of {len(announcements)}")
        ordered = dict(sorted(announcements.items()))
        digests = [envelope.digest for envelope in ordered.values()]
        self._number = number
        self._parameters = parameters
        self._cohort = tuple(ordered)
        self._graph = Graph(
            self._cohort,
            parameters.neighbours,
            order_seed(run=run, session=session, number=number, announcements=digests),
        )
        self._binding = binding_of(
            run=run, session=session, number=number, parameters=parameters, work=work, announcements=digests
        )
        self._random = random
        self._total: NDArray[np.uint32] = np.zeros(parameters.length, dtype=np.uint32)
        self._survivors: dict[int, Survivor] = {}
        self._dropped: frozenset[int] = frozenset()
        self._answered: set[int] = set()
        self._exchange = 1
        self.request = MaskRequest(
            round=number,
            parameters=parameters,
            work=work,
            announcements=tuple(envelope.line() for envelope in ordered.values()),
        )

    def receive(self, client: int, masked: MaskedVector) -> None:
        """Add a client's masked vector to the sum.

        Raises:
            TransportError: it cannot be used; nothing was added.
        """
        self._expect(client, 1, self._cohort, self._survivors)
        parameters = self._parameters
        holders = self._graph.holders(client)
        _check_size(client, "bytes of masked words", masked.words.size, parameters.length * parameters.width)
        _check_size(client, "bundles of shares", len(masked.bundles), len(holders))
        for bundle in masked.bundles:
            _check_size(client, "bytes in a bundle of shares", len(bundle), bundle_bytes(parameters.neighbours))
        _check_size(client, "bytes of commitments", len(masked.commitments), DIGEST_BYTES * len(holders))
        add_packed(self._total, masked.words, parameters.width)
        self._survivors[client] = Survivor(
            client=client,
            holders=holders,
            neighbours=self._graph.neighbours(client),
            bundles=dict(zip(holders, masked.bundles, strict=True)),
            commitments=masked.commitments,
        )

    def close(self) -> dict[int, UnmaskRequest]:
        """End the first exchange, and return what to ask of each survivor.

        Raises:
            AggregationError: too few survived; the round is over.
            TransportError: it was ended before.
        """
        if self._exchange != 1:
            raise TransportError(f"the first exchange of round {self._number} was ended before")
        self._exchange = 2
        self._survivors = dict(sorted(self._survivors.items()))
        self._dropped = frozenset(self._cohort) - self._survivors.keys()
        threshold = self._parameters.threshold
        if len(self._survivors) < threshold:
            raise self._failure(
                f"{len(self._survivors)} of {len(self._cohort)} masked vectors came, and it takes {threshold}; missing "
                f"{names(self._dropped)}"
            )
        for client, survivor in self._survivors.items():
            survivor.lost = tuple(peer for peer in survivor.neighbours if peer in self._dropped)
            if len(survivor.holders) - len(survivor.lost) < threshold:
                raise self._failure(
                    f"the secrets of client {client} take {threshold} of its {len(survivor.holders)} holders, of whom "
                    f"are missing {names(survivor.lost)}"
                )
        return {client: self._asked(client) for client in self._survivors}

    def receive_shares(self, client: int, shares: UnmaskedShares) -> None:
        """Take a survivor's shares.

        Raises:
            TransportError: they cannot be used; none was taken.
        """
        self._expect(client, 2, self._survivors, self._answered)
        held = self._owners(client)
        strange = set(shares.unreadable).difference(held)
        if strange:
            raise TransportError(f"client {client} could not read shares of {names(strange)}, and it was sent none")
        owners = [owner for owner in held if owner not in shares.unreadable]
        counts = [len(self._survivors[owner].lost) for owner in owners]
        _check_size(client, "bytes of shares of self-masks", len(shares.own), SEED_BYTES * len(owners))
        _check_size(client, "bytes of shares of pair masks", len(shares.pairs), PAIR_BYTES * sum(counts))
        start = 0
        for place, (owner, count) in enumerate(zip(owners, counts, strict=True)):
            end = start + PAIR_BYTES * count
            own = shares.own[SEED_BYTES * place : SEED_BYTES * (place + 1)]
            self._survivors[owner].shares[client] = own + shares.pairs[start:end]
            start = end
        for owner in shares.unreadable:
            self._survivors[owner].unreadable.add(client)
        self._answered.add(client)

    @property
    def enough(self) -> bool:
        """Whether enough shares came for `finish`, if none of them is wrong."""
        threshold = self._parameters.threshold
        return self._exchange == 2 and all(  # noqa: PLR2004 - the second of two
            len(survivor.shares) >= threshold for survivor in self._survivors.values()
        )

    def finish(self) -> Aggregate:
        """Take off the masks that did not cancel, and return the sum.

        Raises:
            AggregationError: shares are missing (more can still come), or a secret cannot be put together (the round is
                over).
            TransportError: the first exchange was not ended, or the round is over.
        """
        if self._exchange != 2:  # noqa: PLR2004 - the second of two
            raise TransportError(f"round {self._number} is not in its second exchange")
        silent = [client for client in self._survivors if client not in self._answered]
        if not self.enough:
            raise self._failure(shortage(self._survivors.values(), self._parameters.threshold, silent))
        self._exchange = 3
        wrong: set[tuple[int, int]] = set()
        for survivor in self._survivors.values():
            self._unmask(survivor, wrong)
        extend_sign(self._total, self._parameters.width)
        return Aggregate(
            total=self._total,
            survivors=tuple(self._survivors),
            silent=tuple(silent),
            doubts=tuple(sorted(wrong | self._unreadable())),
        )

    def _unreadable(self) -> set[tuple[int, int]]:
        return {(holder, owner) for owner, survivor in self._survivors.items() for holder in survivor.unreadable}

    def _unmask(self, survivor: Survivor, wrong: set[tuple[int, int]]) -> None:
        """Take a survivor's masks off the sum, and add each holder and owner of a share that does not fit to wrong."""
        doubts = {holder for holder, _ in wrong}
        found = survivor.recovered(
            binding=self._binding, threshold=self._parameters.threshold, doubts=doubts, random=self._random
        )
        if found is None:
            raise self._failure(
                f"the shares of the secrets of client {survivor.client} do not give what it committed to: either it is "
                f"at fault, or too many of its holders {names(survivor.shares)}"
                + (f"; shares of other clients that did not fit came from {names(doubts)}" if doubts else "")
            )
        seeds, misfits = found
        wrong |= {(holder, survivor.client) for holder in misfits}
        apply_mask(self._total, *(seed for peer, seed in seeds.items() if peer >= survivor.client), sign=-1)
        apply_mask(self._total, *(seed for peer, seed in seeds.items() if peer < survivor.client), sign=1)

    def _asked(self, client: int) -> UnmaskRequest:
        return UnmaskRequest(
            round=self._number,
            binding=self._binding,
            survivors=tuple(self._survivors),
            dropped=tuple(sorted(self._dropped)),
            bundles=tuple(self._survivors[owner].bundles[client] for owner in self._owners(client)),
        )

    def _owners(self, holder: int) -> list[int]:
        """Return the survivors whose shares a client holds; holding is mutual."""
        return [owner for owner in self._survivors[holder].holders if owner in self._survivors]

    def _expect(self, client: int, exchange: int, asked: Iterable[int], done: Iterable[int]) -> None:
        if exchange != self._exchange:
            raise TransportError(
                f"client {client} answered exchange {exchange} of round {self._number}, which is not under way"
            )
        if client not in asked:
            raise TransportError(f"client {client} was not asked in exchange {exchange} of round {self._number}")
        if client in done:
            raise TransportError(f"client {client} answered exchange {exchange} of round {self._number} twice")

    def _failure(self, problem: str) -> AggregationError:
        return AggregationError(f"round {self._number} has no sum: {problem}")


def _check_size(client: int, what: str, size: int, expected: int) -> None:
    if size != expected:
        raise TransportError(f"client {client} sent {size} {what}, and {expected} are expected")
