"""What a call of a layer contributes to the gradients of single records, kept as factors where that is cheaper.

The gradient of a weight is a sum over positions (pixels, tokens) of products of what the layer took and of the
gradient of what it made. Private training needs two things of it: the norm of each record's gradient, and a weighted
sum over the records. Neither needs every gradient at once. For a single position the norm of a product is the
product of the norms (Goodfellow 2015, "Efficient per-example gradient computations"). For several it follows from two
Gram matrices (Li et al. 2022, "Large language models can be strong differentially private learners", section 4). The
weighted sum is one matrix product (Bu et al. 2023, "Differentially private optimization on large model at small cost").
Where there are many positions and few weights, the gradients themselves are cheaper.

Squares are in float64. Those from Gram matrices are upper bounds: their rounding is bounded and added, since terms of
both signs may cancel, and a norm that is too short would let a record through unclipped.

Shapes: n records, T positions, G groups of channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor

# What it costs to write a value of a gradient and to read it twice, in multiplications.
_MOVED = 16
# Values of one block of temporaries: what a cache holds.
_BLOCK = 1 << 18
# How much longer than a gradient its terms may be, together: single precision then errs by a few times 1e-5 of it.
_CANCELLED = 256


@dataclass(frozen=True, kw_only=True)
class Fold:
    """How the values of matrices (m, G, out, in) are those of gradients (m, *parameter).

    Attributes:
        sizes: what the values of a matrix are read as.
        order: of these dimensions in the parameter.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def __call__(self, values: Tensor) -> Tensor:
        """Return the gradients."""
        return values.reshape(len(values), *self.sizes).permute(0, *(each + 1 for each in self.order))


def unfolded(shape: Sequence[int]) -> Fold:
    """Return the fold of values that are in the parameter's order."""
    return Fold(sizes=tuple(shape), order=tuple(range(len(shape))))


class Contribution(Protocol):
    """The gradients of n records with respect to one parameter."""

    def squares(self, *, exact: bool = False) -> Tensor:
        """Return the squared norms of the gradients, float64 of shape (n,).

        Args:
            exact: whether squares are to be finite that are not in single precision.
        """

    def rows(self, chosen: slice | list[int]) -> Tensor:
        """Return the gradients of some of the records, shape (m, *parameter)."""

    def total(self, factors: Tensor) -> Tensor:
        """Return the sum of the gradients, each times its factor, of the shape of the parameter."""

    def silenced(self, kept: Tensor) -> "Contribution":
        """Return it with zeros for the records outside of a mask of shape (n,)."""

    def averaged(self, views: int) -> "Contribution":
        """Return the mean over each ``views`` records that are next to each other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The gradients themselves.

    Attributes:
        values: n lines, contiguous.
        fold: from values to gradients.
        turned: whether the values are matrices (m, G, in, out).
    """

    values: Tensor
    fold: Fold
    turned: bool = False

    def squares(self, *, exact: bool = False) -> Tensor:
        """Return the squared norms."""
        return norms_of(self.values, exact=exact).square()

    def rows(self, chosen: slice | list[int]) -> Tensor:
        """Return some of the gradients."""
        return self._folded(self.values[chosen])

    def total(self, factors: Tensor) -> Tensor:
        """Return the weighted sum."""
        lines = _lines(self.values)
        return self._folded((factors.to(lines) @ lines).reshape(1, *self.values.shape[1:]))[0]

    def silenced(self, kept: Tensor) -> "Rows":
        """Return it with some records set to zero."""
        return Rows(values=_silenced(self.values, kept), fold=self.fold, turned=self.turned)

    def averaged(self, views: int) -> "Rows":
        """Return the means over views."""
        return Rows(values=_grouped(self.values, views).mean(1), fold=self.fold, turned=self.turned)

    def _folded(self, values: Tensor) -> Tensor:
        return self.fold(values.mT if self.turned else values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Sums over positions of products of two vectors.

    Attributes:
        taken: shape (n, G, T, in).
        made: the gradient of what was made, shape (n, G, T, out).
        fold: from products to gradients.
    """

    taken: Tensor
    made: Tensor
    fold: Fold

    def squares(self, *, exact: bool = False) -> Tensor:
        """Return the squared norms."""
        del exact  # always
        return self._measured[0]

    @cached_property
    def _measured(self) -> tuple[Tensor, Tensor]:
        """Squared norms, and what they would be if no terms cancelled."""
        taken, made = self.taken.double(), self.made.double()
        if taken.shape[2] == 1:
            squares = (taken.square().sum(-1) * made.square().sum(-1)).flatten(1).sum(1)
            return squares, squares
        grams = (taken @ taken.mT) * (made @ made.mT)
        lengths = grams.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().sum(-1).square()
        terms = 4 * (taken.shape[2] + taken.shape[3] + made.shape[3])
        rounding = terms * torch.finfo(torch.float64).eps * lengths
        return (grams.sum((-2, -1)).clamp(min=0) + rounding).flatten(1).sum(1), lengths.flatten(1).sum(1)

    def settled(self) -> Contribution:
        """Return it, or the gradients themselves where terms of a record nearly cancel.

        A total in single precision rounds in proportion to the terms, not to the gradient that they leave: what is left
        of a record could be longer than the bound. Gradients that are written down have the norm that is clipped.
        """
        squares, lengths = self._measured
        if not bool((lengths > _CANCELLED**2 * squares).any()):
            return self
        return Rows(values=(self.made.mT @ self.taken).contiguous(), fold=self.fold)

    def rows(self, chosen: slice | list[int]) -> Tensor:
        """Return some of the gradients."""
        return self.fold(self.made[chosen].mT @ self.taken[chosen])

    def total(self, factors: Tensor) -> Tensor:
        """Return the weighted sum."""
        made = self.made * factors.to(self.made).reshape(-1, 1, 1, 1)
        groups = range(made.shape[1])
        products = [made[:, each].flatten(0, 1).T @ self.taken[:, each].flatten(0, 1) for each in groups]
        return self.fold(torch.stack(products).unsqueeze(0))[0]

    def silenced(self, kept: Tensor) -> "Products":
        """Return it with some records set to zero."""
        return Products(taken=_silenced(self.taken, kept), made=_silenced(self.made, kept), fold=self.fold)

    def averaged(self, views: int) -> Contribution:
        """Return the means over views."""
        # The views are further positions.
        taken, made = (_grouped(each, views).transpose(1, 2).flatten(2, 3) for each in (self.taken, self.made / views))
        return added([Products(taken=taken, made=made, fold=self.fold)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookups:
    """Gradients of the rows of a table that were looked up.

    Attributes:
        words: the number of each row, int64 of shape (n, T).
        made: the gradient of what was made, shape (n, T, width).
        size: of the table.
    """

    words: Tensor
    made: Tensor
    size: int

    def squares(self, *, exact: bool = False) -> Tensor:
        """Return the squared norms."""
        pairs, sums = self._sums
        squares = norms_of(sums, exact=exact).square()
        return squares.new_zeros(len(self.words)).index_add_(0, pairs // self.size, squares)

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor]:
        """Numbers of pairs of a record and a word, and what the record has of the word: a sum over its positions.

        Norms and totals are made of the same sums: in other sums, terms that cancel leave another rounding, which can
        be longer than the bound.
        """
        pairs, where = torch.unique(_numbered(self.words, self.size), return_inverse=True)
        sums = self.made.new_zeros(len(pairs), self.made.shape[2]).index_add_(0, where, self.made.flatten(0, 1))
        return pairs, sums

    def rows(self, chosen: slice | list[int]) -> Tensor:
        """Return some of the gradients."""
        words, made = self.words[chosen], self.made[chosen]
        table = made.new_zeros(len(words) * self.size, made.shape[2])
        return table.index_add_(0, _numbered(words, self.size), made.flatten(0, 1)).reshape(len(words), self.size, -1)

    def total(self, factors: Tensor) -> Tensor:
        """Return the weighted sum."""
        pairs, sums = self._sums
        scaled = sums * factors.to(sums)[pairs // self.size].unsqueeze(1)
        return sums.new_zeros(self.size, sums.shape[1]).index_add_(0, pairs % self.size, scaled)

    def silenced(self, kept: Tensor) -> "Lookups":
        """Return it with some records set to zero."""
        return Lookups(words=self.words, made=_silenced(self.made, kept), size=self.size)

    def averaged(self, views: int) -> "Lookups":
        """Return the means over views."""
        words, made = (_grouped(each, views).flatten(1, 2) for each in (self.words, self.made / views))
        return Lookups(words=words, made=made, size=self.size)


def _numbered(words: Tensor, size: int) -> Tensor:
    return (words + size * torch.arange(len(words), device=words.device).unsqueeze(1)).flatten()


def _silenced(values: Tensor, kept: Tensor) -> Tensor:
    return values.masked_fill(~kept.reshape(-1, *(1 for _ in values.shape[1:])), 0.0)


def _grouped(values: Tensor, views: int) -> Tensor:
    return values.reshape(len(values) // views, views, *values.shape[1:])


def are_cheaper(positions: int, taken: int, made: int) -> bool:
    """Return whether two Gram matrices and a second product are cheaper than the gradients themselves."""
    return positions == 1 or 2 * positions**2 * (taken + made) < _MOVED * taken * made


def multiplied(take: Callable[[slice], Tensor], made: Tensor, inner: int, fold: Fold) -> Rows:
    """Return gradients from products, in blocks that a cache holds.

    Args:
        take: gives what the layer took for some of the records, shape (m, G, T, in).
        made: the gradient of what it made, shape (n, G, T, out).
        inner: how many values are taken at a position.
        fold: from products to gradients.
    """
    count, groups, positions, outer = made.shape
    # A product of a narrow matrix is faster with the narrow side last.
    values = made.new_empty(count * groups, inner, outer)
    step = max(1, _BLOCK // max(1, groups * positions * inner))
    for start in range(0, count, step):
        block = slice(start, start + step)
        lines = slice(start * groups, (start + step) * groups)
        torch.bmm(take(block).flatten(0, 1).mT, made[block].flatten(0, 1), out=values[lines])
    return Rows(values=values.reshape(count, groups, inner, outer), fold=fold, turned=True)


def added(parts: Sequence[Contribution]) -> Contribution:
    """Return the sum of the contributions of several calls to one parameter, as what is cheaper."""
    first = parts[0]
    if isinstance(first, Products) and all(isinstance(each, Products) and each.fold == first.fold for each in parts):
        several = [each for each in parts if isinstance(each, Products)]
        taken = first.taken if len(parts) == 1 else torch.cat([each.taken for each in several], dim=2)
        made = first.made if len(parts) == 1 else torch.cat([each.made for each in several], dim=2)
        if are_cheaper(taken.shape[2], taken.shape[3], made.shape[3]):
            return Products(taken=taken, made=made, fold=first.fold)
        return multiplied(lambda block: taken[block], made, taken.shape[3], first.fold)
    if len(parts) == 1:
        return first
    if all(isinstance(each, Lookups) for each in parts):
        lookups = [each for each in parts if isinstance(each, Lookups)]
        return Lookups(
            words=torch.cat([each.words for each in lookups], dim=1),
            made=torch.cat([each.made for each in lookups], dim=1),
            size=lookups[0].size,
        )
    total = reduce(add, (each.rows(slice(None)) for each in parts)).contiguous()
    return Rows(values=total, fold=unfolded(total.shape[1:]))


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

    def totals(self, factors: Tensor) -> list[Tensor]:
        """Return the sums of the gradients, each times its factor, of the shapes of the parameters."""
        return [
            part.total(factors) if part else single(torch.zeros_like(parameter))
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

    def clipped(self, norm: float) -> list[Tensor]:
        """Return the sums of the gradients, each scaled down to a norm, of the shapes of the parameters.

        A record whose norm is no number of single precision counts as zero: it would turn all weights into NaN.
        """
        squares = self.squares()
        factors = clip_factors(squares.sqrt(), norm)
        finite = squares <= torch.finfo(torch.float32).max ** 2
        if bool(finite.all()):
            return self.totals(factors)
        parts = [part and part.silenced(finite) for part in self.parts]
        return PerRecord(self._parameters, parts, self._count).totals(factors.where(finite, 0.0))


def clip_factors(norms: Tensor, bound: float) -> Tensor:
    """Return what scales gradients of the norms down to a bound, and leaves the shorter ones as they are."""
    factors = (bound / (norms + 1e-6)).clamp(max=1.0)
    # In single precision a smaller factor has few digits. The record counts as zero.
    return factors.where(factors >= torch.finfo(torch.float32).tiny, 0.0)


def norms_of(gradients: Tensor, *, exact: bool = True) -> Tensor:
    """Return the norm of each record's gradient, float64 of shape (n,).

    Args:
        gradients: shape (n, ...).
        exact: whether squares are to be finite that are not in single precision.
    """
    norms: Tensor = torch.linalg.vector_norm(_lines(gradients), dim=1).double()
    if exact and not norms.isfinite().all():
        norms = torch.linalg.vector_norm(_lines(gradients).double(), dim=1)
    return norms


def _lines(values: Tensor) -> Tensor:
    return values.reshape(len(values), values.shape[1:].numel())


def single(values: Tensor) -> Tensor:
    """Return values in single precision at least."""
    return values.float() if values.dtype.itemsize < torch.float32.itemsize else values
