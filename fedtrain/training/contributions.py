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
# Numbers whose squares are added up in single precision.
_PART = 1 << 13


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

    def total(self, factors: Tensor, *, exact: bool = False) -> Tensor:
        """Return the sum of the gradients, each times its factor, of the shape of the parameter.

        Args:
            factors: shape (n,).
            exact: whether it is added up in float64.
        """

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

    def total(self, factors: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted sum."""
        lines = _lines(self.values)
        total = _summed(factors, lines) if exact else factors.to(lines) @ lines
        return self._folded(total.reshape(1, *self.values.shape[1:]))[0]

    def silenced(self, kept: Tensor) -> "Rows":
        """Return it with some records set to zero."""
        return Rows(values=_silenced(self.values, kept), fold=self.fold, turned=self.turned)

    def averaged(self, views: int) -> "Rows":
        """Return the means over views."""
        return Rows(values=_grouped(self.values, views).mean(1), fold=self.fold, turned=self.turned)

    def _folded(self, values: Tensor) -> Tensor:
        return self.fold(values.mT if self.turned else values)


class Gram:
    """The products of a record's vectors at each two positions, made when they are asked for.

    Args:
        vectors: shape (n, G, T, width).
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    @cached_property
    def values(self) -> Tensor:
        """The products, float64 of shape (n, G, T, T), computed in blocks that a cache holds."""
        count, groups, positions, width = self._vectors.shape
        found = self._vectors.new_empty(count, groups, positions, positions, dtype=torch.float64)
        for block in _blocks(count, groups * positions * width):
            vectors = self._vectors[block].double().flatten(0, 1)
            torch.bmm(vectors, vectors.mT, out=found[block].flatten(0, 1))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Sums over positions of products of two vectors.

    Attributes:
        taken: shape (n, G, T, in).
        made: the gradient of what was made, shape (n, G, T, out).
        fold: from products to gradients.
        gram: of ``made``, where several weights share it.
        beside: how many values the other weights that share it take at a position.
    """

    taken: Tensor
    made: Tensor
    fold: Fold
    gram: Gram | None = None
    beside: int = 0

    def squares(self, *, exact: bool = False) -> Tensor:
        """Return the squared norms."""
        del exact  # always
        return self._measured[0]

    @cached_property
    def _measured(self) -> tuple[Tensor, Tensor]:
        """Squared norms, and what they would be if no terms cancelled."""
        if self.taken.shape[2] == 1:
            squares = (_squares(self.taken) * _squares(self.made)).flatten(1).sum(1)
            return squares, squares
        grams = Gram(self.taken).values * (self.gram or Gram(self.made)).values
        lengths = grams.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().sum(-1).square()
        terms = 4 * (self.taken.shape[2] + self.taken.shape[3] + self.made.shape[3])
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

    def total(self, factors: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted sum."""
        if not exact:
            return self._total(self.taken, self.made, factors)
        blocks = _blocks(len(self.made), self.taken.shape[1:].numel() + self.made.shape[1:].numel())
        return reduce(
            add, (self._total(self.taken[part].double(), self.made[part].double(), factors[part]) for part in blocks)
        )

    def _total(self, taken: Tensor, made: Tensor, factors: Tensor) -> Tensor:
        factors = factors.to(made).reshape(-1, 1, 1, 1)
        # The narrower one is scaled.
        if taken.shape[3] < made.shape[3]:
            taken = taken * factors
        else:
            made = made * factors
        if made.stride(0) < made.stride(2):
            # Positions are outermost in memory, so that lines of both are no copies.
            taken, made = taken.transpose(0, 2), made.transpose(0, 2)
        lines = [[each.select(1, group).flatten(0, 1) for each in (made, taken)] for group in range(made.shape[1])]
        return self.fold(torch.stack([left.T @ right for left, right in lines]).unsqueeze(0))[0]

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

    def total(self, factors: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted sum."""
        pairs, sums = self._sums
        sums = sums.double() if exact else sums
        scaled = sums * factors.to(sums)[pairs // self.size].unsqueeze(1)
        return sums.new_zeros(self.size, sums.shape[1]).index_add_(0, pairs % self.size, scaled)

    def silenced(self, kept: Tensor) -> "Lookups":
        """Return it with some records set to zero."""
        return Lookups(words=self.words, made=_silenced(self.made, kept), size=self.size)

    def averaged(self, views: int) -> "Lookups":
        """Return the means over views."""
        words, made = (_grouped(each, views).flatten(1, 2) for each in (self.words, self.made / views))
        return Lookups(words=words, made=made, size=self.size)


def _blocks(count: int, width: int) -> list[slice]:
    """Return parts of so many records whose temporaries of so many values a record a cache holds; one at least."""
    step = max(1, _BLOCK // max(1, width))
    return [slice(start, start + step) for start in range(0, count, step)] or [slice(0, 0)]


def _squares(vectors: Tensor) -> Tensor:
    """Return the squared norms of vectors in their last dimension, in float64."""
    blocks = _blocks(len(vectors), vectors.shape[1:].numel())
    return torch.cat([vectors[block].double().square().sum(-1) for block in blocks])


def _summed(factors: Tensor, lines: Tensor) -> Tensor:
    """Return the weighted sum of lines in float64, in blocks that a cache holds."""
    total = lines.new_zeros(lines.shape[1], dtype=torch.float64)
    for block in _blocks(len(lines), lines.shape[1]):
        total += factors[block].double() @ lines[block].double()
    return total


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
        if are_cheaper(taken.shape[2], taken.shape[3] + first.beside, made.shape[3]):
            return first if len(parts) == 1 else Products(taken=taken, made=made, fold=first.fold)
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


def norms_of(gradients: Tensor, *, exact: bool = True) -> Tensor:
    """Return the norm of each record's gradient, float64 of shape (n,).

    Args:
        gradients: shape (n, ...).
        exact: whether squares are to be finite that are not in single precision.
    """
    # In single precision a norm of a hundred thousand numbers comes out too small by 1e-6, and of a million by 1e-5:
    # parts of it are added up in double.
    parts = [torch.linalg.vector_norm(part, dim=1).double() for part in torch.split(_lines(gradients), _PART, dim=1)]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    if exact and not norms.isfinite().all():
        norms = torch.linalg.vector_norm(_lines(gradients).double(), dim=1)
    return norms


def _lines(values: Tensor) -> Tensor:
    return values.reshape(len(values), values.shape[1:].numel())


def single(values: Tensor) -> Tensor:
    """Return values in single precision at least."""
    return values.float() if values.dtype.itemsize < torch.float32.itemsize else values
