"""How a run's updates are summed, and what became of a round's sum."""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord

from fedtrain.flower.transport.vector import Layout, Total
from fedtrain.secagg import Parameters


@dataclass(frozen=True, kw_only=True)
class Summing:
    """How updates are summed.

    Attributes:
        bits: bits of a quantized parameter.
        bound: largest change of a parameter; ``None`` for the clipping norm of the round.
        threshold: as configured; ``None`` for the default.
        neighbours: likewise.
        layout: what the vectors are made of. Where ``bound`` is ``None``, the clipping norm becomes its norm.
        seed: seed of the rounding.
        deadline: seconds that each of the two exchanges may take.
    """

    bits: int
    bound: float | None
    threshold: int | None
    neighbours: int | None
    layout: Layout
    seed: int
    deadline: float

    def parameters(self, *, members: int, sent: ArrayRecord, norm: float) -> Parameters:
        """Return the parameters for a cohort.

        Raises:
            ConfigError: there are none that are safe, or the sum could overflow.
        """
        return Parameters.plan(
            members=members,
            length=self.layout.length(sent),
            bits=self.bits,
            bound=norm if self.bound is None else self.bound,
            threshold=self.threshold,
            neighbours=self.neighbours,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a round.

    Attributes:
        parameters: those of the round.
        masked: clients that delivered a masked update.
        dropped: why the others did not, by client.
        silent: clients that delivered one and did not help to unmask; their updates are in the sum all the same.
        total: the sum; ``None`` if the round was aborted.
    """

    parameters: Parameters
    masked: tuple[int, ...]
    dropped: Mapping[int, str]
    silent: tuple[int, ...]
    total: Total | None
