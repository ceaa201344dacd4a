"""The client's half of secure aggregation, without input or output: typed messages in, typed messages out.

A round has two exchanges. Each may be handled by a new process that has the session's secrets and the state.

1. `Client.begin` checks a request and `Client.mask` answers it. With q the client's vector, b a fresh secret and s_j
   the secret that it shares with its neighbour j, it sends

       y = q + PRG(b) + sum over j > i of PRG(s_j) - sum over j < i of PRG(s_j)   (mod 2^32),

   and for each holder (its neighbours and itself) the Shamir shares of b and of every s_j, encrypted to the holder.
2. `Client.unmask` answers once, with its shares of b of each survivor, and of the secret of each pair of a survivor and
   a client that dropped out. In the sum over the survivors all other masks cancel.

Rules. A client takes no key but those signed by the identities of its pinned roster, for its own run and session, and
none of low order; no cohort below its minimum or without itself; and no threshold below two thirds of the holders of a
secret (`Parameters`). It masks one vector in a round, and rounds only go up. It gives shares for the round that it
masked last, once, for survivors and dropped clients that are together the cohort it was told before, if it is a
survivor itself and they are as many as the threshold and its minimum. Of one client it gives its share of the self-mask
or those of its pairs with survivors, never both; of a client whose shares it cannot open it gives none, and says so.
Every key is bound to the round's binding: run, session, round, parameters, work and cohort. It refuses with a
`TransportError`, and its state is then what it was.

What that gives. A server that follows the protocol, together with fewer than ``threshold`` of any client's holders,
learns the sum over the survivors and nothing else of what the others sent (Bonawitz et al., CCS 2017; Bell et al., CCS
2020): fewer than two thirds of the cohort where all share with all, more if the threshold is raised, and in larger
cohorts 10% of it, but for a probability of 2^-30 (`fedtrain.secagg.graph`).

A server that does not follow it can choose the cohort among the roster's clients, call clients dropped that are not,
compare the sums of different rounds (the difference of two cohorts' sums is the difference of their members), add
whatever it likes to the sum, and stop a round.

It cannot sum the answers of members that it asked for different work, such as a model on which all but one have nothing
to change (Pasquini et al., CCS 2022): each member's caller compares ``MaskRequest.work`` with the digest of what it is
asked to do, so that such members hold different bindings, with which neither pair masks cancel nor shares open. One
model for all can still be made so that few records change it, and the sum then says more of those.

Where all n members share with all (a cohort of up to 200), it cannot make two claims about a client as long as it has
at most 2 threshold - n - 1 colluders among them, which is any number below a third, and more if the threshold is
raised: it would take ``threshold`` holders who were told that the client survived, and ``threshold`` who were told that
it dropped out, and only colluders answer both. So no vector is unmasked but in a sum. With different claims about
different clients that can be a sum over fewer than ``threshold``; without colluders it is over at least
n (2 threshold - n) / threshold clients, which is half of the cohort or more. In larger cohorts a pair's secret has
other holders than the self-masks of its ends, and the server can try session ids and round numbers until their order
suits it: there the claim is for a server that follows the protocol.

Nothing here hides the sum itself, or keeps a client from adding a wrong vector. An intruder with a session's secrets
can compute the pair masks of its rounds; they are to be deleted when the session ends.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedtrain.crypto import SignedEnvelope, apply_mask, decrypt_once, encrypt_once
from fedtrain.errors import TransportError
from fedtrain.secagg.cohort import Announced, Announcements
from fedtrain.secagg.messages import (
    PAIR_BYTES,
    SEED_BYTES,
    MaskedVector,
    MaskRequest,
    UnmaskedShares,
    UnmaskRequest,
    binding_of,
    bundle_bytes,
    commitment,
    order_seed,
)
from fedtrain.secagg.parameters import Parameters
from fedtrain.secagg.quantization import check_vector, pack
from fedtrain.secagg.shamir import split
from fedtrain.secagg.state import ClientState, Pending
from fedtrain.trust import Roster, SessionSecrets


class Client:
    """One client in one session.

    Attributes:
        state: to be kept, durably, before an answer leaves: `mask` and `unmask` change it.
    """

    def __init__(
        self,
        *,
        client: int,
        secrets: SessionSecrets,
        announcement: SignedEnvelope,
        roster: Roster,
        minimum: int,
        state: ClientState,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Take up a session.

        Args:
            client: its number in the roster.
            secrets: its keys for the session.
            announcement: how it announced them.
            roster: the pinned identities.
            minimum: the smallest cohort, and number of survivors, in whose sum it lets its vector disappear.
            state: what it remembers of the session; ``ClientState()`` at first.
            random: returns that many secret, uniformly random bytes.

        Raises:
            TransportError: the announcement is not of this client, these keys and this roster.
        """
        self._announcements = Announcements(roster, client, announcement)
        keys = self._announcements.own.keys
        if (keys.masking, keys.sharing) != (secrets.masking.public, secrets.sharing.public):
            raise TransportError(f"client {client} announced other keys than it has")
        self._client = client
        self._secrets = secrets
        self._minimum = minimum
        self._random = random
        self._begun: tuple[int, Pending, Mapping[int, Announced]] | None = None
        self._checked: tuple[MaskRequest, Pending, Mapping[int, Announced]] | None = None
        self.state = state

    def begin(self, request: MaskRequest) -> Parameters:
        """Check a request to take part in a round, and return what the round is about.

        That ``request.work`` is the digest of the work at hand is for the caller to check: here nobody sees the model.

        Raises:
            TransportError: it breaks a rule; no vector can be masked then.
        """
        self._begun = None
        number, parameters = request.round, request.parameters
        if number <= self.state.round:
            raise TransportError(f"round {number} is refused: client {self._client} was in round {self.state.round}")
        if self._checked is None or self._checked[0] is not request:
            self._checked = (request, *self._check(request))
        self._begun = number, *self._checked[1:]
        return parameters

    def _check(self, request: MaskRequest) -> tuple[Pending, Mapping[int, Announced]]:
        """Return what a request is about and its cohort, whatever the state is.

        Raises:
            TransportError: it breaks a rule.
        """
        number, parameters = request.round, request.parameters
        cohort = self._announcements.cohort(request.announcements)
        if len(cohort) != parameters.members:
            raise TransportError(f"a cohort of {len(cohort)} is refused: its parameters are for {parameters.members}")
        if len(cohort) < self._minimum:
            raise TransportError(f"a cohort of {len(cohort)} is refused: this site's minimum is {self._minimum}")
        own = self._announcements.own.keys
        digests = [announced.digest for announced in cohort.values()]
        pending = Pending(
            binding=binding_of(
                run=own.run,
                session=own.session,
                number=number,
                parameters=parameters,
                work=request.work,
                announcements=digests,
            ),
            parameters=parameters,
            cohort=tuple(cohort),
            order=order_seed(run=own.run, session=own.session, number=number, announcements=digests).hex(),
            sharing=(),
        )
        return pending, cohort

    def mask(self, vector: NDArray[np.uint32]) -> MaskedVector:
        """Mask the client's vector for the round that was begun, and split the secrets that unmask it.

        Args:
            vector: uint32, shape (parameters.length,), contiguous: two's complements of magnitude up to
                ``parameters.largest``. The masks are added in place.

        Raises:
            TransportError: no round was begun.
            ValueError: the vector is another, or a coordinate is too large.
        """
        if self._begun is None:
            raise TransportError("a vector can be masked once for each round that was begun")
        number, begun, cohort = self._begun
        parameters = begun.parameters
        check_vector(vector, length=parameters.length, largest=parameters.largest)
        holders = begun.graph.holders(self._client)
        context = begun.binding.encode()
        secrets = self._secrets_for(begun.binding, cohort, holders)
        shares = split(
            b"".join(secrets.values()), threshold=parameters.threshold, holders=len(holders), random=self._random
        )
        bundles = []
        for holder, share in zip(holders, shares, strict=True):
            key = self._share_key(cohort[holder].keys.sharing, begun.binding, self._client, holder)
            bundles.append(encrypt_once(key, share, context))
        apply_mask(vector, *(seed for peer, seed in secrets.items() if peer >= self._client), sign=1)
        apply_mask(vector, *(seed for peer, seed in secrets.items() if peer < self._client), sign=-1)
        sharing = tuple(cohort[holder].keys.sharing for holder in holders)
        pending = Pending(
            binding=begun.binding, parameters=parameters, cohort=begun.cohort, order=begun.order, sharing=sharing
        )
        self._begun = None
        self.state = ClientState(round=number, pending=pending)
        return MaskedVector(
            words=pack(vector, parameters.width),
            bundles=tuple(bundles),
            commitments=b"".join(
                commitment(begun.binding, self._client, peer, secret) for peer, secret in secrets.items()
            ),
        )

    def unmask(self, request: UnmaskRequest) -> UnmaskedShares:
        """Give the shares that the sum over the survivors takes. It needs nothing but the state.

        Of a survivor whose bundle does not open none are given, and the answer names it.

        Raises:
            TransportError: the request breaks a rule; nothing is given away.
        """
        pending = self.state.answerable(request, client=self._client, minimum=self._minimum)
        graph, survivors, dropped = pending.graph, set(request.survivors), set(request.dropped)
        owners = [
            (owner, key)
            for owner, key in zip(graph.holders(self._client), pending.sharing, strict=True)
            if owner in survivors
        ]
        if len(request.bundles) != len(owners):
            raise TransportError(f"{len(request.bundles)} bundles of shares came, and {len(owners)} are expected")
        own, pairs, unreadable = [], [], []
        for (owner, key), bundle in zip(owners, request.bundles, strict=True):
            share = self._opened(bundle, key, pending, owner)
            if share is None:
                unreadable.append(owner)
                continue
            own.append(share[:SEED_BYTES])
            for place, peer in enumerate(graph.neighbours(owner) if dropped else ()):
                if peer in dropped:
                    start = SEED_BYTES + PAIR_BYTES * place
                    pairs.append(share[start : start + PAIR_BYTES])
        self.state = ClientState(round=self.state.round)
        return UnmaskedShares(own=b"".join(own), pairs=b"".join(pairs), unreadable=tuple(unreadable))

    def _secrets_for(self, binding: str, cohort: Mapping[int, Announced], holders: tuple[int, ...]) -> dict[int, bytes]:
        """Return the seed of the self-mask, under the client's own number and first, and that of each neighbour."""
        secrets = {self._client: self._random(SEED_BYTES)}
        for peer in holders:
            if peer != self._client:
                ends = sorted((self._client, peer))
                secrets[peer] = self._secrets.masking.shared(
                    cohort[peer].keys.masking, "pair seed", binding, *ends, length=PAIR_BYTES
                )
        return secrets

    def _share_key(self, public: bytes, binding: str, owner: int, holder: int) -> bytes:
        return self._secrets.sharing.shared(public, "shares", binding, owner, holder)

    def _opened(self, bundle: bytes, key: bytes, pending: Pending, owner: int) -> bytes | None:
        """Return a client's shares; ``None`` if the bundle does not open, which is its owner's or the server's fault.

        Raises:
            TransportError: the bundle has another length, which the server lets no client send.
        """
        expected = bundle_bytes(pending.parameters.neighbours)
        if len(bundle) != expected:
            raise TransportError(f"the shares of client {owner} have {len(bundle)} bytes, and {expected} are expected")
        secret = self._share_key(key, pending.binding, owner, self._client)
        try:
            return decrypt_once(secret, bundle, pending.binding.encode())
        except TransportError:
            return None
