"""What one record adds to the moments of a least-squares fit: one vector of norm 1 at most.

Least squares needs two sums over the records: of ``z z'`` and of ``y z'``, where z are a record's inputs with a
constant, and y its targets. Each record enters them once. What it adds is one vector, whose L2 norm is bounded by
public constants, so that one release with noise pays for both.

- Inputs x of a norm above the public bound R are scaled down to it. Then ``z = (sqrt(1 - c) x / R, sqrt(c))``, with a
  public share c for the constant, has a norm of 1 at most.
- ``z z'`` is symmetric. Its upper triangle, with each entry off the diagonal times the square root of 2, is a vector of
  norm ``||z||^2``: the map is an isometry of symmetric matrices (the trace inner product), and sends each number once.
- Targets are within a ball of radius 1: each kind of target says how (`fedtrain.statistics.targets`).
- The vector is ``(sqrt(a) z z', sqrt(1 - a) y z')``, with a public share a. Its squared norm is
  ``||z||^2 (a ||z||^2 + (1 - a) ||y||^2) <= 1``, and it is 1 where inputs and targets have their largest norms.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtrain.errors import TaskError

LARGEST = 2**24
"""The most numbers of one vector: beyond it a sum is hundreds of megabytes, and the noise on it drowns any fit."""


@dataclass(frozen=True, kw_only=True)
class MomentLayout:
    """How the moments of a record are laid out in a vector; all of it is public.

    Attributes:
        inputs: how many inputs a record has, without the constant.
        targets: how many targets it has.
        radius: the bound R on the norm of its inputs.
        constant: the share c of the constant in the squared norm of z.
        gram: the share a of ``z z'`` in the squared norm of the vector.

    Raises:
        TaskError: a vector would have more than `LARGEST` numbers.
    """

    inputs: int
    targets: int
    radius: float
    constant: float = 0.05
    gram: float = 0.4

    def __post_init__(self) -> None:
        if self.size > LARGEST:
            raise TaskError(
                f"least squares on {self.inputs:,} inputs needs the sum of {self.pairs:,} products of two of them and "
                f"{self.width * self.targets:,} with targets, {self.size:,} numbers; at most {LARGEST:,} are allowed. "
                "Use features of fewer numbers"
            )

    @property
    def width(self) -> int:
        """The numbers of z: the inputs and the constant."""
        return self.inputs + 1

    @property
    def pairs(self) -> int:
        """The numbers of the upper triangle of ``z z'``."""
        return self.width * (self.width + 1) // 2

    @property
    def size(self) -> int:
        """The numbers of a vector."""
        return self.pairs + self.width * self.targets

    def augmented(self, inputs: Tensor) -> Tensor:
        """Return z of each record: shape (n, width), of norms of at most 1, in the dtype of the inputs.

        Args:
            inputs: shape (n, inputs). Inputs that are not finite count as zeros.
        """
        finite = torch.where(inputs.isfinite().all(dim=1, keepdim=True), inputs, 0.0)
        peak = finite.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(inputs.dtype).tiny)
        directions = finite / peak
        lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        # The norm is peak * lengths, which may be infinite where the inputs are not.
        within = peak * lengths <= self.radius
        scaled = torch.where(within, finite / self.radius, directions / lengths) * sqrt(1 - self.constant)
        return torch.cat([scaled, inputs.new_full((len(inputs), 1), sqrt(self.constant))], dim=1)

    def vectors(self, augmented: Tensor, targets: Tensor) -> Tensor:
        """Return the vector of each record, shape (n, size).

        Args:
            augmented: z, shape (n, width).
            targets: y, shape (n, targets), of norms of at most 1.
        """
        gram = upper_triangle(augmented) * sqrt(self.gram)
        moment = (targets[:, :, None] * augmented[:, None, :]).flatten(1) * sqrt(1 - self.gram)
        return torch.cat([gram, moment], dim=1)

    def read(self, total: NDArray[np.floating], *, deviation: float) -> "Moments":
        """Return the moments of a noisy sum of vectors.

        Args:
            total: shape (size,).
            deviation: standard deviation of the noise in each of its numbers.
        """
        values = np.asarray(total, dtype=np.float64)
        pairs, moment = np.split(values, [self.pairs])
        return Moments(
            gram=symmetric(pairs, self.width) / sqrt(self.gram),
            moment=moment.reshape(self.targets, self.width) / sqrt(1 - self.gram),
            gram_deviation=deviation / sqrt(self.gram),
            moment_deviation=deviation / sqrt(1 - self.gram),
        )

    def head(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a fit on z as a linear layer on inputs within the bound.

        Args:
            weights: shape (targets, width).

        Returns:
            Weights, shape (targets, inputs), and biases, shape (targets,).
        """
        return weights[:, :-1] * (sqrt(1 - self.constant) / self.radius), weights[:, -1] * sqrt(self.constant)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Noisy moments of records.

    Attributes:
        gram: the sum of ``z z'``, shape (width, width), symmetric; with noise it may have negative eigenvalues.
        moment: the sum of ``y z'``, shape (targets, width).
        gram_deviation: standard deviation of the noise on the diagonal of ``gram``. Off it, it is smaller by the square
            root of 2.
        moment_deviation: standard deviation of the noise in each number of ``moment``.
    """

    gram: NDArray[np.float64]
    moment: NDArray[np.float64]
    gram_deviation: float
    moment_deviation: float


def upper_triangle(vectors: Tensor) -> Tensor:
    """Return the upper triangle of ``v v'`` of each row v, row by row, off the diagonal times the square root of 2.

    >>> upper_triangle(torch.tensor([[1.0, 2.0]]))
    tensor([[1.0000, 2.8284, 4.0000]])

    Args:
        vectors: shape (n, width).

    Returns:
        Shape (n, width (width + 1) / 2); each row has the norm of its v squared.
    """
    width = vectors.shape[1]
    rows, columns = torch.triu_indices(width, width, device=vectors.device)
    weights = vectors.new_full((len(rows),), sqrt(2)).masked_fill(rows == columns, 1.0)
    return vectors[:, rows] * vectors[:, columns] * weights


def symmetric(triangle: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the symmetric matrix of an upper triangle as `upper_triangle` makes it: its inverse, and linear."""
    matrix = np.zeros((width, width))
    rows, columns = np.triu_indices(width)
    matrix[rows, columns] = np.where(rows == columns, triangle, triangle / sqrt(2))
    return np.triu(matrix) + np.triu(matrix, 1).T
