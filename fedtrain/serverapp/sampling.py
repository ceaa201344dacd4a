"""Draw the cohort of a round, a fixed number of clients or a Poisson one, and offer it to a strategy."""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from flwr.serverapp import Grid

from fedtrain.errors import BudgetError, ClientError
from fedtrain.flower.grids.base import GridWrapper, by_client
from fedtrain.privacy.client_level import poisson_cohort
from fedtrain.privacy.noise import open_source
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.audit_trail import AuditTrail

_NONE: Mapping[int, int] = MappingProxyType({})
_NOBODY: Mapping[int, str] = MappingProxyType({})
_PAUSE = 0.5  # seconds between two looks at who is connected


class Sampler(Protocol):
    """Draws cohorts. The draw of a round follows from the seed and the round, or from secure noise."""

    def draw(self, round_number: int) -> list[int]:
        """Return the nodes of the cohort of a round, in the order in which they are asked and summed."""
        ...


class FixedSampler:
    """Draws cohorts of a fixed size from the clients that have not reached the maximum, and charges each drawn one.

    What the server counts is never less than what clients trained: a client trains only in a cohort. Cohorts are drawn
    in the order of the clients, so that a seeded draw is of the same clients on every runtime. Clients that refused are
    not drawn while the others are enough.

    With a separation b, a client that is drawn is not drawn again in the b - 1 rounds after.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        clients: Mapping[int, int],
        maximum: int,
        cohort: int,
        counts: Mapping[int, int],
        seed: int,
        refused: Collection[int] = (),
        timeout: float = 0.0,
        separation: int = 1,
        latest: Mapping[int, int] = _NONE,
        recounts: bool = True,
        meet: Callable[[Collection[int]], Mapping[int, str]] = lambda _: _NOBODY,
    ) -> None:
        """Draw from the nodes of a grid.

        Args:
            grid: where the clients are.
            clients: the client of each node.
            maximum: cohorts that one client is in at most.
            cohort: clients of a cohort.
            counts: cohorts that clients were in before.
            seed: seed of the run.
            refused: clients that refused so far; the caller may add to the collection during the run.
            timeout: seconds to wait for clients to connect again, where too few are.
            separation: rounds from one draw of a client to its next, at least.
            latest: the last round that each client was drawn for before.
            recounts: whether a client that is drawn for the same round again is charged again, as with secure noise.
            meet: asks clients that are drawn who they are, where that was not asked before, and returns why some do
                not say so. Others are drawn in the place of these.
        """
        self._grid = grid
        self._nodes = {client: node for node, client in sorted(clients.items(), key=lambda item: item[1])}
        self._clients = dict(clients)
        self._maximum = maximum
        self._cohort = cohort
        self._counts = Counter(counts)
        self._seed = seed
        self._refused = refused
        self._timeout = timeout
        self._separation = separation
        self._latest = dict(latest)
        self._recounts = recounts
        self._meet = meet
        self._unknown: dict[int, str] = {}

    def draw(self, round_number: int) -> list[int]:
        """Draw the cohort of a round, and charge its clients, whatever becomes of the round.

        Raises:
            BudgetError: fewer clients than a cohort may train in this round.
            ClientError: they are enough, and too few of them are connected, or say who they are.
        """
        # Not by the strategy, which draws from Python's global generator: so do heartbeats of Flower, at any time.
        generator = random.Random(derive_seed(self._seed, "cohort", round_number))  # noqa: S311 - these are no secret
        while True:
            drawn = generator.sample(self.available(round_number), self._cohort)
            clients = [self._clients[node] for node in drawn]
            if not (unknown := self._meet(clients)):
                break
            self._unknown.update(unknown)
        for client in clients:
            self._counts[client] = self._taken(client, round_number) + 1
        self._latest.update(dict.fromkeys(clients, round_number))
        return drawn

    def available(self, round_number: int) -> list[int]:
        """Return the nodes that may train in a round, in the order of their clients.

        Raises:
            BudgetError: they are fewer than a cohort; Flower would wait for ever.
            ClientError: they are enough, and too few of them are connected.
        """
        left = [node for client, node in self._nodes.items() if self._taken(client, round_number) < self._maximum]
        if len(left) < self._cohort:
            raise BudgetError(
                f"only {len(left)} clients are left for a cohort of {self._cohort}: the others have trained in "
                f"{self._maximum} rounds, all that the privacy plan allows (with secure noise a round that was lost "
                "counts too); begin another run with a higher privacy.max_participations, which means more noise, or "
                "with fewer rounds"
            )
        rested = [node for node in left if self._rested(self._clients[node], round_number)]
        if len(rested) < self._cohort:
            raise BudgetError(
                f"only {len(rested)} clients are left for a cohort of {self._cohort} in round {round_number}: of "
                f"{len(left)} that may still train, the others were asked in the {self._separation - 1} rounds before, "
                f"and privacy.separation = {self._separation}; begin another run with a lower privacy.separation, a "
                "smaller cohort or more clients"
            )
        allowed = self._known(self._connected(rested))
        willing = [node for node in allowed if self._clients[node] not in self._refused]
        return willing if len(willing) >= self._cohort else allowed

    def _known(self, nodes: list[int]) -> list[int]:
        """Return some nodes without those of clients that did not say who they are.

        Raises:
            ClientError: too few are left for a cohort.
        """
        known = [node for node in nodes if self._clients[node] not in self._unknown]
        if len(known) < self._cohort:
            raise ClientError(
                f"only {len(known)} clients are left for a cohort of {self._cohort}; the others were asked who they "
                f"are:\n{by_client(self._unknown)}"
            )
        return known

    def _taken(self, client: int, round_number: int) -> int:
        """Return how many cohorts a client is charged for, besides one that a further draw for this round repeats."""
        repeated = not self._recounts and self._latest.get(client) == round_number
        return self._counts[client] - repeated

    def _rested(self, client: int, round_number: int) -> bool:
        latest = self._latest.get(client)
        # Where nothing is kept apart, a round that is repeated asks those again whom it asked before.
        return self._separation == 1 or latest is None or round_number - latest >= self._separation

    def _connected(self, nodes: list[int]) -> list[int]:
        """Return those of some nodes that are connected, as soon as they are enough for a cohort."""
        end = time.monotonic() + self._timeout
        while len(found := self._online(nodes)) < self._cohort:
            if time.monotonic() >= end:
                away = ", ".join(str(self._clients[node]) for node in nodes if node not in found)
                raise ClientError(
                    f"only {len(found)} clients are connected for a cohort of {self._cohort}; after "
                    f"{self._timeout:g} seconds without: {away}. The run can be resumed when they are back"
                )
            time.sleep(_PAUSE)
        return found

    def _online(self, nodes: list[int]) -> list[int]:
        connected = set(self._grid.get_node_ids())
        return [node for node in nodes if node in connected]


class PoissonSampler:
    """Draws each client that has reserved the run by itself, with the sampling rate of the plan. It may draw none."""

    def __init__(self, trail: AuditTrail, *, clients: Mapping[int, int], seed: int) -> None:
        """Draw from the clients that have reserved a run.

        Args:
            trail: the record of the run, with its plan.
            clients: the client of each node.
            seed: seed of the run, for noise from a seed.
        """
        self._trail = trail
        self._nodes = {client: node for node, client in clients.items()}
        self._seed = seed

    def draw(self, round_number: int) -> list[int]:
        """Draw the cohort of a round."""
        source = open_source(self._trail.noise, derive_seed(self._seed, "cohort", round_number))
        cohort = poisson_cohort(self._trail.drawable(), self._trail.plan.spec.sampling_rate, source)
        return [self._nodes[client] for client in cohort]


class DrawnGrid(GridWrapper):
    """Offers a strategy exactly the nodes that were drawn for a round, which may be none. It takes them all."""

    def __init__(self, inner: Grid, drawn: Iterable[int]) -> None:
        """Offer some nodes of a grid."""
        super().__init__(inner)
        self._drawn = tuple(drawn)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that were drawn."""
        return list(self._drawn)
