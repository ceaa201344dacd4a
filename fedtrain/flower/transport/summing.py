"""How a run's updates are summed, and what became of a round's sum.

Server and clients each derive the first from the configuration that they were given, and from the cohort: nothing of
it is sent, so that no message can make a client sum anything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord

from fedtrain.config import Experiment
from fedtrain.errors import TransportError
from fedtrain.flower import protocol
from fedtrain.flower.transport.vector import Layout, Total
from fedtrain.secagg import Parameters
from fedtrain.seeding import derive_seed


@dataclass(frozen=True, kw_only=True)
class Summing:
    """How updates are summed.

    Attributes:
        bits: bits of a quantized parameter.
        bound: largest change of a parameter.
        threshold: as configured; ``None`` for the default.
        neighbours: likewise.
        layout: what the vectors are made of.
        seed: seed of the rounding.
        deadline: seconds that each of the two exchanges may take.
        adaptive: whether the clipping norm of the round takes the place of the bound and of the layout's norm.
    """

    bits: int
    bound: float
    threshold: int | None
    neighbours: int | None
    layout: Layout
    seed: int
    deadline: float
    adaptive: bool

    @classmethod
    def of(cls, experiment: Experiment) -> "Summing":
        """Return how the updates of an experiment are summed."""
        secagg, privacy = experiment.transport.secagg, experiment.privacy
        by_client = privacy.mode == "client"
        adaptive = by_client and privacy.adaptive_clipping
        layout = Layout(counters=(protocol.WITHIN_CLIP,)) if adaptive else Layout()
        if by_client:
            layout = replace(layout, norm=privacy.clip_norm)
        elif secagg.max_weight is not None:
            layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=secagg.max_weight)
        return cls(
            bits=secagg.bits,
            bound=privacy.clip_norm if by_client else secagg.largest_change,
            threshold=secagg.threshold,
            neighbours=secagg.neighbours,
            layout=layout,
            seed=experiment.seed,
            deadline=experiment.federation.deadline,
            adaptive=adaptive,
        )

    def in_round(self, settings: ConfigRecord) -> "Summing":
        """Return how the updates of one round are summed, whose clipping norm the server sets if it is adaptive.

        Raises:
            TransportError: the settings of the round have no such norm.
        """
        if not self.adaptive:
            return self
        norm = settings.get(protocol.CLIP_NORM)
        if not isinstance(norm, float) or not 0 < norm < inf:
            raise TransportError(f"the clipping norm of the round is {norm!r}, and a number above 0 is allowed")
        return replace(self, bound=norm, layout=replace(self.layout, norm=norm))

    def parameters(self, *, members: int, sent: ArrayRecord) -> Parameters:
        """Return the parameters for a cohort.

        Raises:
            ConfigError: there are none that are safe, or the sum could overflow.
        """
        return Parameters.plan(
            members=members,
            length=self.layout.length(sent),
            bits=self.bits,
            bound=self.bound,
            threshold=self.threshold,
            neighbours=self.neighbours,
        )

    def random(self, *, client: int, round_number: int) -> np.random.Generator:
        """Return what decides how a client rounds in a round."""
        return np.random.default_rng(derive_seed(self.seed, "rounding", client, round_number))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a round.

    Attributes:
        parameters: those of the round.
        masked: clients that delivered a masked update.
        dropped: why the others did not, by client.
        silent: clients that delivered one and did not help to unmask; their updates are in the sum all the same.
        total: the sum; ``None`` if the round was aborted.
        problem: why it was aborted, with the last word of each client that was lost; empty if it was not.
    """

    parameters: Parameters
    masked: tuple[int, ...]
    dropped: Mapping[int, str]
    silent: tuple[int, ...]
    total: Total | None
    problem: str = ""
