"""What a round of secure aggregation ends with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
