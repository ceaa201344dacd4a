"""The gradients of single records with respect to all parameters, and what private training makes of them.

It needs the norm of each record's gradient, and one sum in which each gradient is scaled down to a bound. Both are made
of what `fedtrain.training.contributions` keeps for each parameter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedtrain.training.contributions import Contribution, Products, Rows, single, unfolded


class PerRecord:
    """The gradients of n records with respect to all trainable parameters of a model.

    Example::

        found = PerRecord.of(parameters, gradients)
        sums = found.settled().clipped(1.0)

    Attributes:
        parts: for each parameter, in the model's order, its contribution; ``None`` where all are zero.
    """

    def __init__(self, parameters: Sequence[Tensor], parts: Sequence[Contribution | None], count: int) -> None:
        self._parameters, self._count, self.parts = parameters, count, parts

    @classmethod
    def of(cls, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> "PerRecord":
        """Take gradients of shape (n, *parameter), those in half precision in single precision."""
        parts = [Rows(values=single(each).contiguous(), fold=unfolded(each.shape[1:])) for each in gradients]
        return cls(parameters, parts, len(gradients[0]))

    def __len__(self) -> int:
        return self._count

    def squares(self) -> Tensor:
        """Return the squared norms of the gradients with respect to all parameters, float64 of shape (n,)."""
        parts = [each for each in self.parts if each]
        if not parts:
            return self._parameters[0].new_zeros(self._count, dtype=torch.float64)
        squares = torch.stack([each.squares() for each in parts]).sum(0)
        if not squares.isfinite().all():
            squares = torch.stack([each.squares(exact=True) for each in parts]).sum(0)
        return squares

    def rows(self, chosen: slice | list[int]) -> list[Tensor]:
        """Return the gradients of some of the records, for each parameter a tensor of shape (m, *parameter)."""
        count = len(range(self._count)[chosen]) if isinstance(chosen, slice) else len(chosen)
        return [
            part.rows(chosen) if part else single(parameter.new_zeros((count, *parameter.shape)))
            for parameter, part in zip(self._parameters, self.parts, strict=True)
        ]

    def totals(self, factors: Tensor, *, exact: bool = False) -> list[Tensor]:
        """Return the sums of the gradients, each times its factor, of the shapes of the parameters.

        Args:
            factors: shape (n,).
            exact: whether they are added up, and returned, in float64.
        """
        return [
            part.total(factors, exact=exact) if part else _zeros(parameter, exact=exact)
            for parameter, part in zip(self._parameters, self.parts, strict=True)
        ]

    def settled(self) -> "PerRecord":
        """Return the gradients so that their norms and their sums are of the same rounded numbers."""
        parts = [part.settled() if isinstance(part, Products) else part for part in self.parts]
        return PerRecord(self._parameters, parts, self._count)

    def averaged(self, views: int) -> "PerRecord":
        """Return the means over the views of each record, which are next to each other (De et al. 2022, section 3.2).

        It comes before clipping, so that a record has one gradient to clip, and the sensitivity is that of one view.
        """
        if views == 1:
            return self
        parts = [part and part.averaged(views) for part in self.parts]
        return PerRecord(self._parameters, parts, self._count // views)

    def clipped(self, norm: float, *, exact: bool = False) -> list[Tensor]:
        """Return the sums of the gradients, each scaled down to a norm, of the shapes of the parameters.

        A record whose norm is no number of single precision counts as zero: it would turn all weights into NaN.

        Args:
            norm: the bound.
            exact: whether they are added up in float64. In single precision one record more rounds the terms of all
                others anew, which can be more than its own norm allows where they are many thousands.
        """
        squares = self.squares()
        factors = clip_factors(squares.sqrt(), norm)
        finite = squares <= torch.finfo(torch.float32).max ** 2
        if bool(finite.all()):
            return self.totals(factors, exact=exact)
        parts = [part and part.silenced(finite) for part in self.parts]
        return PerRecord(self._parameters, parts, self._count).totals(factors.where(finite, 0.0), exact=exact)


def _zeros(parameter: Tensor, *, exact: bool) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.float64) if exact else single(torch.zeros_like(parameter))


def clip_factors(norms: Tensor, bound: float) -> Tensor:
    """Return what scales gradients of the norms down to a bound, and leaves the shorter ones as they are."""
    factors = (bound / (norms + 1e-6)).clamp(max=1.0)
    # In single precision a smaller factor has few digits. The record counts as zero.
    return factors.where(factors >= torch.finfo(torch.float32).tiny, 0.0)
