"""The parameters of a round of secure aggregation, safe by construction: unsafe ones cannot be made.

In client privacy a sum also needs room: for clipping before it, and for noise after it (`check_noise`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedtrain.errors import ConfigError, TransportError
from fedtrain.secagg.fields import Reader, Value
from fedtrain.secagg.graph import check_graph, default_neighbours, default_threshold

MOST_MEMBERS = 100_000
LONGEST = 1 << 32
"""Of a vector, in words."""

LEAST_BOUND, LARGEST_BOUND = 1e-290, 1e290
"""Between them a step has the full precision of a double, and no sum is infinite."""

_SMALLEST_BITS = 2
_WORD_BYTES = 4
# Noise of so many standard deviations or more has a probability below 1e-15.
_DEVIATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The public parameters of a round, checked when they are made.

    Each coordinate is a whole number between ``-largest`` and ``largest``. On the wire a word has ``width`` bytes, the
    fewest in which the sum over all members fits with its sign: members * largest <= 2^(8 width - 1) - 1. So no sum can
    overflow.

    A secret has ``neighbours + 1`` holders. Two claims about one client, to holders who do not overlap, each
    reach the threshold only with at least 2 threshold - neighbours - 1 colluders among the holders: of h honest and c
    colluding holders, h = a + b and a + c, b + c >= threshold give c >= 2 threshold - (h + c). A threshold of two
    thirds of the holders, rounded up, tolerates any number below a third. It is the least that is allowed, since a
    client takes the threshold from the server, and a bare majority would fall to one colluder.

    Attributes:
        members: clients in the cohort, 2 or more.
        length: words in a vector.
        bits: of a coordinate, its sign included.
        bound: the largest magnitude of a value, from 1e-290 to 1e290; what is larger is clipped.
        threshold: shares that a secret takes: from two thirds of its holders, rounded up, to all of them.
        neighbours: clients that each shares masks with.

    Raises:
        ConfigError: they are not safe, with what is allowed.
    """

    members: int
    length: int
    bits: int
    bound: float
    threshold: int
    neighbours: int

    def __post_init__(self) -> None:
        if not 2 <= self.members <= MOST_MEMBERS:  # noqa: PLR2004 - a sum has at least two terms
            raise ConfigError(f"secure aggregation takes a cohort of 2 to {MOST_MEMBERS}, and this has {self.members}")
        if not 1 <= self.length <= LONGEST:
            raise ConfigError(f"a vector of {self.length} words cannot be summed: 1 to {LONGEST} words are allowed")
        most = (_headroom(_WORD_BYTES) // self.members + 1).bit_length()
        if not _SMALLEST_BITS <= self.bits <= most:
            raise ConfigError(
                f"{self.bits} bits cannot be used: the sum of {self.members} has to fit in {8 * _WORD_BYTES} bits, so "
                f"{_SMALLEST_BITS} to {most} bits are allowed"
            )
        if not LEAST_BOUND <= self.bound <= LARGEST_BOUND:
            raise ConfigError(
                f"a bound of {self.bound} cannot be used: {LEAST_BOUND} to {LARGEST_BOUND} are allowed for the largest "
                "magnitude of a value"
            )
        check_graph(self.members, self.neighbours, self.threshold)

    @classmethod
    def plan(
        cls,
        *,
        members: int,
        length: int,
        bits: int,
        bound: float,
        threshold: int | None = None,
        neighbours: int | None = None,
    ) -> Self:
        """Return parameters, with the default for what is not given.

        Raises:
            ConfigError: they are not safe, with what is allowed.
        """
        if neighbours is None:
            neighbours = default_neighbours(members)
        return cls(
            members=members,
            length=length,
            bits=bits,
            bound=float(bound),
            threshold=default_threshold(neighbours) if threshold is None else threshold,
            neighbours=neighbours,
        )

    @property
    def largest(self) -> int:
        """The largest magnitude of a coordinate; a whole number that is summed as it is must not exceed it."""
        return (1 << (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """What a coordinate of 1 stands for."""
        return self.bound / self.largest

    def rounding_error(self, length: int) -> float:
        """Return the most by which rounding can lengthen an update of so many values, in L2: a step in each."""
        return self.step * math.sqrt(length)

    @property
    def width(self) -> int:
        """Bytes of a word on the wire, 1 to 4."""
        return width_of(self.members, self.bits)

    def to_fields(self) -> dict[str, Value]:
        """Return the fields of the parameters."""
        return {
            "members": self.members,
            "length": self.length,
            "bits": self.bits,
            "bound": self.bound,
            "threshold": self.threshold,
            "neighbours": self.neighbours,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Return the parameters that ``to_fields`` wrote.

        Raises:
            TransportError: the fields are others, or the parameters are not safe.
        """
        reader = Reader("the parameters", fields)
        values = {name: reader.whole(name) for name in ("members", "length", "bits", "threshold", "neighbours")}
        bound = reader.number("bound")
        reader.end()
        try:
            return cls(**values, bound=bound)
        except ConfigError as error:
            raise TransportError(f"the parameters are refused: {error}") from error


def width_of(members: int, bits: int) -> int:
    """Return the bytes of a word on the wire, 1 to 4: the fewest in which a sum over all members fits with its sign."""
    largest = (1 << (bits - 1)) - 1
    return next((w for w in range(1, _WORD_BYTES) if members * largest <= _headroom(w)), _WORD_BYTES)


def _headroom(width: int) -> int:
    return (1 << (8 * width - 1)) - 1


def check_noise(parameters: Parameters, *, clip_norm: float, noise_multiplier: float) -> None:
    """Check that clipping, rounding and noise leave something of an update, and of the sum.

    A client clips to the clipping norm less the largest error of rounding, which grows with the root of the length. The
    sum is known up to multiples of its range, and so is what is released: noise beyond the range would be lost.

    Args:
        parameters: of the whole cohort and the whole model.
        clip_norm: the clipping norm.
        noise_multiplier: standard deviation of the noise on the sum of the updates, over the clipping norm.

    Raises:
        ConfigError: they do not.
    """
    if parameters.rounding_error(parameters.length) >= clip_norm:
        raise ConfigError(
            f"transport.secagg.bits = {parameters.bits}: rounding {parameters.length} parameters can move an update by "
            f"more than privacy.clip_norm = {clip_norm:g}; raise it"
        )
    room = parameters.step * 2.0 ** (8 * parameters.width - 1) - parameters.members * clip_norm
    if room < _DEVIATIONS * noise_multiplier * clip_norm:
        raise ConfigError(
            f"transport.secagg.bits = {parameters.bits}: the sum of {parameters.members} updates, with noise of "
            f"{noise_multiplier:g} times the clipping norm, does not fit into {parameters.width} bytes; lower it"
        )
