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
        liars: survivors that gave a share which does not fit the others, as far as that is certain. It may be the fault
            of its owner, who made it.
    """

    total: NDArray[np.uint32]
    survivors: tuple[int, ...]
    silent: tuple[int, ...]
    liars: tuple[int, ...]
