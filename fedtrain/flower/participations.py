"""How often each client took part in releases, on the server's disk: what client privacy of any Flower app spends.

The file is written before a round is asked for. A crash counts a round too many, never one too few, and a server that
is started again in the same folder goes on with what was spent.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtrain.errors import BudgetError, StorageError
from fedtrain.files import write_atomic
from fedtrain.privacy import FINE, PrivacyPlan
from fedtrain.privacy.accounting import epsilon_of

_SCHEMA = "fedtrain.participations/1"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the releases of a folder have spent of each client's privacy, against everyone who sees the models.

    Attributes:
        epsilon: of the client that took part most often, every participation in full; ``None`` with seeded noise,
            which anybody can compute.
        delta: its delta.
        noise: ``secure`` or ``seeded``.
        participations: by client.
        events: what happened to each client that took part, as data: ``docs/how-to/recompute-epsilon.md``.
    """

    epsilon: float | None
    delta: float
    noise: str
    participations: Mapping[int, int]
    events: Mapping[int, Mapping[str, Any]]


class Participations:
    """Counts the rounds that each client was asked in, and refuses those that the noise was not calibrated for."""

    def __init__(self, path: Path, plan: PrivacyPlan, *, noise: str) -> None:
        """Open a file, or begin it at the first round.

        Args:
            path: the file.
            plan: the plan.
            noise: ``secure`` or ``seeded``.

        Raises:
            StorageError: the file cannot be read.
            BudgetError: it counts rounds under another plan, or with noise from another source.
        """
        self._path, self._plan, self._noise = path, plan, noise
        # A link to nothing is a count that is gone, and not one that was never begun.
        self._counts = self._read() if path.is_symlink() or path.exists() else {}

    def _read(self) -> dict[int, int]:
        try:
            data = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise StorageError(f"cannot read {self._path}: {error}; without it the spent epsilon is unknown") from error
        match data:
            case {"schema": str(schema), "plan": dict(plan), "noise": str(noise), "participations": dict(counts)} if (
                schema == _SCHEMA and all(_is_count(client, count) for client, count in counts.items())
            ):
                pass
            case _:
                raise StorageError(f"{self._path} is damaged: without it the spent epsilon is unknown")
        if plan != self._plan.as_data() or noise != self._noise:
            raise BudgetError(
                f"{self._path} counts what was spent with other parameters of client_privacy: use another folder, and "
                "add up the epsilons yourself"
            )
        return {int(client): count for client, count in counts.items()}

    def reserve(self, clients: Iterable[int]) -> None:
        """Count one more round for each client, durably, before any of them is asked.

        Raises:
            BudgetError: one of them would take part in more rounds than the noise was calibrated for.
            StorageError: the file cannot be written.
        """
        counts = dict(self._counts)
        for client in clients:
            counts[client] = counts.get(client, 0) + 1
        most = self._plan.spec.rounds
        if over := sorted(client for client, count in counts.items() if count > most):
            raise BudgetError(
                f"client {over[0]} has taken part in {most} rounds, for which the noise was calibrated "
                "(client_privacy.rounds), and the strategy asks it once more; nothing was sent. To go on is to "
                "spend more: begin another folder, and add up the epsilons"
            )
        data = {
            "schema": _SCHEMA,
            "plan": self._plan.as_data(),
            "noise": self._noise,
            "participations": {str(client): count for client, count in sorted(counts.items())},
        }
        write_atomic(self._path, json.dumps(data, indent=2).encode() + b"\n")
        self._counts = counts

    @property
    def plan(self) -> PrivacyPlan:
        """The plan."""
        return self._plan

    @property
    def spent(self) -> Spent:
        """What was spent so far."""
        spec, most = self._plan.spec, max(self._counts.values(), default=0)
        epsilon: float | None = 0.0
        if self._noise != "secure":
            epsilon = None
        elif most:
            epsilon = epsilon_of([self._plan.event(most)], spec.delta, discretization=FINE)
        return Spent(
            epsilon=epsilon,
            delta=spec.delta,
            noise=self._noise,
            participations=dict(sorted(self._counts.items())),
            events={client: self._plan.event(count).as_data() for client, count in sorted(self._counts.items())},
        )


def _is_count(client: object, count: object) -> bool:
    return isinstance(client, str) and client.isdecimal() and type(count) is int and count > 0
