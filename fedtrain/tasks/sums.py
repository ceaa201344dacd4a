"""Tasks that sum one bounded vector a record, once.

The sum is the gradient of a loss that is linear in the weights: a record with the vector v has the loss ``-w'v``, and
so the gradient ``-v``, whatever the weights are. So one step over all records, by whichever mechanism, clips, sums and
covers with noise what it should, and nothing else of a run needs to know that it trains no model. The vectors have a
norm below the clipping norm of 1, so that clipping, which the guarantee rests on, changes none of them.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtrain.tasks.base import Batch, Task

if TYPE_CHECKING:
    from fedtrain.config import Experiment

_WITHIN = 1 - 2.0**-9
"""The norm of the longest vector: short of 1 by more than any rounding."""

_TOGETHER = 2**23
"""Numbers of the vectors that are in memory at once."""


class SumTask(Task):
    """The sum of one vector a record.

    Its model is the sum: a linear layer from a vector to one number, whose weights begin at zero.

    Attributes:
        size: the numbers of a vector.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """The numbers of a vector."""

    @abstractmethod
    def vectors(self, batch: Batch) -> Tensor:
        """Return the vector of each record, float32 of shape (n, size), of norms of at most 1."""

    @property
    def together(self) -> int:
        """How many records are taken at once, so that their vectors fit in memory."""
        return max(1, _TOGETHER // self.size)

    def model(self) -> nn.Module:
        """Return the layer."""
        layer = nn.Linear(self.size, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return layer

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the product of the weights with each vector, shape (n, 1)."""
        outputs: Tensor = model(self.vectors(batch) * _WITHIN)
        return outputs

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002 -- as every task has it
        """Return minus the product, shape (n,): its gradient is minus the vector."""
        return -outputs[:, 0]

    def mean(self, weights: NDArray[Any], experiment: "Experiment") -> NDArray[np.float64]:
        """Return the noisy sum of the vectors over the divisors of all clients, shape (size,).

        Args:
            weights: of the layer, after the only step of the run.
            experiment: with the learning rate of that step.
        """
        flat = np.asarray(weights, dtype=np.float64).reshape(-1)
        return flat / (experiment.training.learning_rate * _WITHIN)

    @staticmethod
    def deviation(noise: float) -> float:
        """Return the standard deviation of the noise on each number of `mean`.

        Args:
            noise: that on the mean gradient of a step, in clipping norms.
        """
        return noise / _WITHIN
