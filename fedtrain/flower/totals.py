"""What a sum of updates says: the sums themselves, the model that they give, and what became of a round.

A sum has as many words of 32 bits as the model has numbers, and takes twice as much in double precision: that is made
where it is needed, and for the average a block after the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedtrain.errors import AggregationError
from fedtrain.flower.messages.records import array_of_parts, view
from fedtrain.flower.summing import Layout, summed
from fedtrain.privacy.clipping import moved
from fedtrain.secagg import Parameters, dequantize

# Numbers that are worked on at once, which a processor's cache holds in double precision.
_BLOCK = 1 << 16


class Sums(Mapping[str, NDArray[np.float64]]):
    """Sums by name, float64, made of their words whenever they are asked for.

    >>> plan = Parameters.plan(members=2, length=3, bits=9, bound=255.0)
    >>> sums = Sums({"w": np.array([1, 2, 3], np.uint32)}, parameters=plan, factor=10)
    >>> sums["w"]
    array([10., 20., 30.])
    """

    def __init__(self, words: Mapping[str, NDArray[np.uint32]], *, parameters: Parameters, factor: int = 1) -> None:
        """Take words.

        Args:
            words: two's complements, by name and of any shape, contiguous.
            parameters: those of the round, which say what 1 stands for.
            factor: what each sum is multiplied by.
        """
        self._words = dict(words)
        self._parameters = parameters
        self._factor = factor

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Return all sums of a name, in their shape."""
        return self._values(self._words[name])

    def __contains__(self, name: object) -> bool:
        """Say whether there are sums of a name, without making them."""
        return name in self._words

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._words)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._words)

    def blocks(self, name: str) -> Iterator[NDArray[np.float64]]:
        """Yield the sums of a name in C order, some at a time."""
        words = self._words[name].reshape(-1)
        for start in range(0, words.size, _BLOCK):
            yield self._values(words[start : start + _BLOCK])

    def _values(self, words: NDArray[np.uint32]) -> NDArray[np.float64]:
        values = dequantize(words, parameters=self._parameters)
        if self._factor != 1:
            values *= self._factor
        return values


@dataclass(frozen=True, kw_only=True)
class Total:
    """What a sum of vectors says.

    Attributes:
        update: the sum of the updates, each times its weight if they are weighted, in float64 and by name; of whole
            numbers, which are exact.
        counters: the sum of each counter.
        weight: the sum of the weights; the number of clients if they are not weighted.
        modulus: each number of the sum is known up to multiples of this. Sums of what clients may send are in the
            middle of the range; one that sends more can bring a coordinate to its edge.
        counter_modulus: likewise of the counters.
    """

    update: Sums
    counters: dict[str, int]
    weight: float
    modulus: float
    counter_modulus: int

    def average(self, sent: ArrayRecord) -> ArrayRecord:
        """Return the model that was sent, moved by the average update, in the types that were sent."""
        return ArrayRecord(
            {name: self._moved(name, array) if name in self.update else array for name, array in sent.items()}
        )

    def _moved(self, name: str, array: Array) -> Array:
        before = view(name, array)
        return array_of_parts(before.dtype, before.shape, self._blocks(name, before.reshape(-1)))

    def _blocks(self, name: str, before: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        start = 0
        for sums in self.update.blocks(name):
            part = moved(before[start : start + sums.size], sums / self.weight)
            yield np.asarray(part, dtype=before.dtype)
            start += sums.size


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
        unmasking: whether clients were asked for what unmasks the sum. From then on it may become known, also from
            answers that come too late.
    """

    parameters: Parameters
    masked: tuple[int, ...]
    dropped: Mapping[int, str]
    silent: tuple[int, ...]
    total: Total | None
    problem: str = ""
    unmasking: bool = True


def from_total(
    layout: Layout, parameters: Parameters, *, words: NDArray[np.uint32], clients: int, sent: ArrayRecord
) -> Total:
    """Return what the sum of so many clients' vectors says. It keeps the words.

    Raises:
        AggregationError: the sum of the weights is none that so many clients can have; one of them sent another.
    """
    split = len(words) - len(layout.counters)
    counters = dict(zip(layout.counters, words[split:].view(np.int32).tolist(), strict=True))
    weight = float(counters[layout.weight]) if layout.weight else float(clients)
    if layout.weight and not clients <= weight <= clients * layout.heaviest:
        raise AggregationError(
            f"the weights of {clients} clients sum to {weight:g}, and each is 1 to {layout.heaviest}: one of them "
            "sent something else, and a sum does not show which"
        )
    update, start = {}, 0
    for name, array in summed(sent).items():
        size = prod(array.shape)
        update[name] = words[start : start + size].reshape(array.shape)
        start += size
    modulus = 1 << (8 * parameters.width)
    return Total(
        update=Sums(update, parameters=parameters, factor=layout.heaviest if layout.weight else 1),
        counters=counters,
        weight=weight,
        modulus=modulus * parameters.step,
        counter_modulus=modulus,
    )
