"""How updates are summed: a model's update as a vector. What the sum says is in `fedtrain.flower.totals`.

The vector holds the change of every floating array, in the order in which the model was sent, and then counters: whole
numbers of which the server learns the sum. Integer arrays (counters of batches, say) are not summed and stay as they
were sent.

Server and clients each derive how from the configuration that they were given, and from the cohort: nothing of it is
sent, so that no message can make a client sum anything else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray

from fedtrain.config import Experiment
from fedtrain.errors import ConfigError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import view
from fedtrain.privacy.clipping import bits_equal, clip_update, difference
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.privacy.shares import NoiseShares
from fedtrain.secagg import Parameters, quantize
from fedtrain.seeding import derive_seed

# Numbers that are worked on at once. Of as many parts of a vector that is rounded, all but the last are whole: rounding
# draws the same whether an array comes in parts or whole.
_PART = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a vector is made of.

    Attributes:
        counters: metrics that are summed, each a whole number from 0 to ``Parameters.largest``.
        weight: the counter that weighs a client's update; empty if all weigh the same.
        heaviest: the weight at which an update enters as it is, and the largest that counts; 0 without weights.
        norm: bound on the L2 norm of what enters the sum, rounding included; 0 for none.
        whole: whether clients send whole numbers, with their shares of the noise, which enter the sum as they are.
    """

    counters: tuple[str, ...] = ()
    weight: str = ""
    heaviest: int = 0
    norm: float = 0.0
    whole: bool = False

    def length(self, sent: ArrayRecord) -> int:
        """Return the length of the vector for a model."""
        return sum(prod(array.shape) for array in summed(sent).values()) + len(self.counters)

    def norm_within(self, parameters: Parameters) -> float:
        """Return the norm that a client clips its update to, so that its rounding keeps the bound; 0 for none.

        Raises:
            TransportError: rounding leaves nothing of the bound.
        """
        if not self.norm:
            return 0.0
        length = parameters.length - len(self.counters)
        norm = self.norm - parameters.rounding_error(length)
        if norm <= 0:
            raise TransportError(
                f"rounding {length} parameters to {parameters.bits} bits can move an update by more than its bound of "
                f"{self.norm:g}: raise transport.secagg.bits"
            )
        return norm


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
        members: the only size of a cohort that is summed over; ``None`` if any is.
    """

    bits: int
    bound: float
    threshold: int | None
    neighbours: int | None
    layout: Layout
    seed: int
    deadline: float
    adaptive: bool
    members: int | None = None

    @classmethod
    def of(cls, experiment: Experiment) -> "Summing":
        """Return how the updates of an experiment are summed."""
        secagg, privacy, mechanism = experiment.transport.secagg, experiment.privacy, mechanism_of(experiment)
        if mechanism.shares_noise:
            return cls._of_shares(experiment, mechanism.spec(experiment).shares)
        by_client = mechanism.clips_updates
        adaptive = by_client and privacy.adaptive_clipping
        layout = Layout(counters=(protocol.WITHIN_CLIP,)) if adaptive else Layout()
        if by_client:
            layout = replace(layout, norm=privacy.clip_norm)
        elif secagg.max_weight is not None:
            layout = Layout(counters=(protocol.WEIGHT,), weight=protocol.WEIGHT, heaviest=secagg.max_weight)
        return cls(
            bits=secagg.bits_of_change,
            bound=privacy.clip_norm if by_client else secagg.largest_change,
            threshold=secagg.threshold,
            neighbours=secagg.neighbours,
            layout=layout,
            seed=experiment.seed,
            deadline=experiment.federation.deadline,
            adaptive=adaptive,
        )

    @classmethod
    def _of_shares(cls, experiment: Experiment, shares: NoiseShares | None) -> "Summing":
        """Return how whole numbers are summed: each stands for itself, over cohorts that the noise is planned for."""
        assert shares is not None  # the mechanism shares the noise
        return cls(
            bits=shares.bits,
            bound=float(shares.largest),
            threshold=shares.threshold,
            neighbours=experiment.transport.secagg.neighbours,
            layout=Layout(whole=True),
            seed=experiment.seed,
            deadline=experiment.federation.deadline,
            adaptive=False,
            members=shares.members,
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
            ConfigError: there are none that are safe, the sum could overflow, or the noise is planned for another
                cohort.
        """
        if self.members is not None and members != self.members:
            raise ConfigError(
                f"the noise is shared by the {self.members} members of a cohort, and this one has {members}"
            )
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


def to_vector(
    layout: Layout,
    parameters: Parameters,
    *,
    received: ArrayRecord,
    trained: ArrayRecord,
    metrics: MetricRecord,
    random: np.random.Generator,
) -> NDArray[np.uint32]:
    """Return a client's quantized update and counters.

    With a bound on the norm, the update is clipped to it less the largest error that rounding can make, one step in
    each coordinate: so that what enters the sum keeps the bound, whatever the rounding does.

    What is raised tells of the update, and is for the client alone.

    Raises:
        TransportError: the trained model is not one of the kind that was received, is not finite, or a counter is
            missing or out of range.
    """
    counters = [_counter(name, metrics) for name in layout.counters]
    _check_same(received, trained)
    if layout.whole:
        return _whole_words(parameters, received=received, trained=trained)
    # A part after the other, so that there is never a second model in memory; a norm is that of the whole update.
    size = None if layout.norm else _PART
    changes: Iterable[tuple[str, NDArray[np.floating]]] = (
        (name, change) for name in summed(received) for change in _changes(name, received, trained, size=size)
    )
    if layout.weight:
        place = layout.counters.index(layout.weight)
        counters[place] = max(1, min(counters[place], layout.heaviest))
        factor = counters[place] / layout.heaviest
        changes = ((name, factor * change) for name, change in changes)
    if norm := layout.norm_within(parameters):
        changes = clip_update(dict(changes), norm)[0].items()
    for name, counter in zip(layout.counters, counters, strict=True):
        if not 0 <= counter <= parameters.largest:
            raise TransportError(
                f"the metric {name} is {counter}, and 0 to {parameters.largest} is what {parameters.bits} bits hold"
            )
    words = np.empty(layout.length(received), dtype=np.uint32)
    start = 0
    for _, change in changes:
        words[start : start + change.size] = quantize(change, parameters=parameters, random=random)
        start += change.size
    words[start:] = counters
    return words


def summed(arrays: ArrayRecord) -> dict[str, Array]:
    """Return what is summed of a model: its floating arrays, in the order in which it was sent."""
    return {name: array for name, array in arrays.items() if np.dtype(array.dtype).kind == "f"}


def _check_same(received: ArrayRecord, trained: ArrayRecord) -> None:
    if set(received) != set(trained):
        raise TransportError(f"the trained arrays {sorted(set(received) ^ set(trained))} are missing or were not sent")


def _whole_words(parameters: Parameters, *, received: ArrayRecord, trained: ArrayRecord) -> NDArray[np.uint32]:
    """Return whole numbers as words, and zeros for arrays that come back as they were received."""
    words = np.zeros(parameters.length, dtype=np.uint32)
    start = 0
    for name, array in summed(received).items():
        size, value = prod(array.shape), view(name, trained[name])
        if value.shape != tuple(array.shape):
            raise TransportError(f"the array {name} has the shape {value.shape}, not {tuple(array.shape)}")
        if value.dtype == np.int32:
            words[start : start + size].view(np.int32)[:] = value.ravel()
        elif value.dtype != np.dtype(array.dtype) or not bits_equal(value, view(name, array)).all():
            raise TransportError(f"the array {name} holds no whole numbers, and is not as it was received")
        start += size
    return words


def _changes(
    name: str, received: ArrayRecord, trained: ArrayRecord, *, size: int | None
) -> Iterator[NDArray[np.float64]]:
    """Yield the change of an array in parts of a size, or whole."""
    before, after = view(name, received[name]), view(name, trained[name])
    if before.shape != after.shape:
        raise TransportError(f"the trained array {name} has the shape {after.shape}, not {before.shape}")
    before, after = before.ravel(), after.ravel()
    step = size or max(before.size, 1)
    for start in range(0, before.size, step):
        change = difference(after[start : start + step], before[start : start + step])
        if not np.isfinite(change).all():
            raise TransportError(f"the trained array {name} is not finite, and would make the sum of all so")
        yield change


def _counter(name: str, metrics: MetricRecord) -> int:
    value = metrics.get(name)
    if not isinstance(value, int | float) or not float(value).is_integer():
        raise TransportError(f"the metric {name} is {value!r}, and whole numbers are summed")
    return int(value)
