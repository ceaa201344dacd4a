"""Privacy loss distributions (PLD) by dp-accounting: the claim.

Pessimistic discretization (Doroshenko et al. 2022, "connect the dots"). Neighbouring data sets differ in one unit added
or removed. What rounding can change of delta is bounded (`fedtrain.privacy.accounting.rounding`) and taken from delta
first, so that the result is an upper bound. Where that is more than a tenth of delta, there is no result.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import expm1, log1p, sqrt

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting import rounding
from fedtrain.privacy.accounting.base import Accountant, bounded, folded, gaussians
from fedtrain.privacy.accounting.gaussian_loss import gaussian_losses
from fedtrain.privacy.events import Event, SampledGaussian, merge

# The grids of the privacy loss, finest first. Over T steps, a grid of h loosens the bound by about T h^2 / 3.
GRIDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
_COARSE = 1e-3

# Points of one mechanism (a microsecond each) and of a composition (a Fourier transform) that are worth waiting for.
_MECHANISM_POINTS, _COMPOSED_POINTS = 250_000, 2_000_000

# Points of all mechanisms together: so many different ones fit on the fine grid, and on the coarse one.
_FEW, _MANY = 4, 50

# Of delta, at most, for the rounding of a sum.
_SUM = 0.01

# Another accountant's bound is not below one that is looser than the truth by at most this fraction.
_TIGHT = 0.01


@dataclass(frozen=True, kw_only=True)
class PldAccountant(Accountant):
    """Composes privacy loss distributions.

    Attributes:
        discretization: the grid of the privacy loss. A coarser one is taken where the mechanisms are many or the losses
            large; it only loosens the bound.
    """

    discretization: float = GRIDS[0]

    name = "dp-accounting PLD, pessimistic"
    library = "dp-accounting"

    def epsilon(self, events: Iterable[Event], delta: float) -> float:
        """Return an upper bound on the epsilon that all events together spend at ``delta``.

        Raises:
            PrivacySpecError: an event outside of the mechanism's domain, or a composition that cannot be bounded.
        """
        found = merge(gaussians(events, delta))
        if not found:
            return 0.0
        parts = folded(found)
        grid, steps = _grid(parts, self.discretization), _steps(parts)
        _check(delta, delta - rounding.least(steps), grid, steps)  # before seconds are spent on it
        total: _Composition | None = None
        for part in parts:
            one = _composition(part.sampling_rate, part.noise_multiplier, part.steps, grid)
            total = one if total is None else total.with_(one)
        assert total is not None  # there is a mechanism
        left = total.certain(delta, grid, steps)
        epsilon = total.distribution.get_epsilon_for_delta(left)
        total.check_sum(epsilon, left, grid)
        # dp-accounting goes over the losses by adding up the grid.
        drift = total.points * rounding.ROUNDING * total.largest * grid
        return bounded(epsilon + drift if epsilon else 0.0, delta)

    def tight(self, events: Iterable[Event], delta: float, epsilon: float) -> bool:
        """Return whether the epsilon that this accountant gave is at most a per cent above the true one.

        Over T steps a grid of h loosens it by about T h^2 / 3. The coarse grid decides for a finer one too, so that a
        finer one never gives the larger claim.
        """
        parts = folded(merge(gaussians(events, delta)))
        if not parts:
            return True
        steps, grid = _steps(parts), _grid(parts, max(self.discretization, _COARSE))
        return steps * grid**2 * 0.36 <= _TIGHT * epsilon and rounding.least(steps) <= _TIGHT * delta


@dataclass(frozen=True, kw_only=True)
class _Composition:
    """Mechanisms composed, and how far that is from the exact composition.

    Attributes:
        distribution: the privacy losses, on a grid.
        error: by how much delta can be above what the distribution gives.
    """

    distribution: PrivacyLossDistribution
    error: float

    @property
    def _sides(self) -> tuple[DensePLDPmf, DensePLDPmf]:
        """The losses where a unit is removed, and where one is added."""
        return self.distribution._pmf_remove, self.distribution._pmf_add  # noqa: SLF001 - it shows them to nobody

    @property
    def norm(self) -> float:
        """The L2 norm of the probabilities."""
        return max(float(np.linalg.norm(side._probs)) for side in self._sides)  # noqa: SLF001 - likewise

    @property
    def points(self) -> int:
        """The number of losses."""
        return max(int(side.size) for side in self._sides)

    @property
    def largest(self) -> int:
        """The largest magnitude of a loss, in steps of the grid."""
        ends = [(side._lower_loss, side._lower_loss + side.size) for side in self._sides]  # noqa: SLF001 - likewise
        return max(abs(int(end)) for both in ends for end in both)

    def repeated(self, steps: int) -> "_Composition":
        """Return the composition with itself."""
        composed = _Composition(distribution=self.distribution.self_compose(steps), error=0.0)
        points = rounding.transformed(max(self.points, composed.points))
        error = rounding.self_composition(steps=steps, points=points, one=self.norm, composed=composed.norm)
        return replace(composed, error=steps * self.error + error)

    def with_(self, other: "_Composition") -> "_Composition":
        """Return the composition with another one."""
        points = rounding.transformed(self.points + other.points)
        error = rounding.composition(points=points, one=self.norm, other=other.norm)
        distribution = self.distribution.compose(other.distribution)
        return _Composition(distribution=distribution, error=self.error + other.error + error)

    def certain(self, delta: float, grid: float, steps: int) -> float:
        """Return what is left of delta when all that rounding can do is taken from it.

        Raises:
            PrivacySpecError: it is more than a tenth.
        """
        error = self.error
        share = steps * rounding.of_differences(grid) * (self.largest * grid + 1)
        left = delta * (1 - share) - error - min(rounding.summation(self.points), _SUM * delta)
        _check(delta, left, grid, steps)
        return left

    def check_sum(self, epsilon: float, left: float, grid: float) -> None:
        """Check that the sum over losses above epsilon, which delta is, was rounded by no more than was taken for that.

        Raises:
            PrivacySpecError: it may have been.
        """
        for side in self._sides:
            first = max(int(epsilon / grid) - 1 - side._lower_loss, 0)  # noqa: SLF001 - as above
            above = np.abs(side._probs[first:])  # noqa: SLF001 - likewise
            if rounding.summation(len(above)) * min(float(above.sum()), 1.0) > min(
                rounding.summation(self.points), _SUM * left
            ):
                raise PrivacySpecError(f"the rounding of a sum over {len(above)} losses is not small against {left:g}")


def _check(delta: float, left: float, grid: float, steps: int) -> None:
    if not rounding.small(delta, left):
        raise PrivacySpecError(
            f"the rounding of {steps} steps on a grid of {grid:g} can be {delta - left:.1e}, which is not small "
            f"against delta {delta:g}"
        )


def _steps(parts: tuple[SampledGaussian, ...]) -> int:
    return sum(part.steps for part in parts)


def _grid(parts: tuple[SampledGaussian, ...], finest: float) -> float:
    """Return the finest grid on which the composition takes seconds, not minutes."""
    count = len(parts)
    needed = finest if count <= _FEW else max(finest, _COARSE * count / _MANY, _COARSE)
    # With mass 1e-15 beyond, a loss is at most that of a Gaussian 10 deviations away.
    single = max(1 / (2 * part.noise_multiplier**2) + 10 / part.noise_multiplier for part in parts)
    mean = sum(part.steps * _divergence(part) for part in parts)
    spread = 2 * 8 * sqrt(2 * mean)
    needed = max(needed, single / _MECHANISM_POINTS, spread / _COMPOSED_POINTS)
    grids = [grid for grid in (finest, *GRIDS) if grid >= needed]
    if not grids:
        raise PrivacySpecError(
            f"the privacy loss of one step reaches {single:.3g} and that of all varies by {spread:.3g}, too much for a "
            f"grid of {GRIDS[-1]:g}"
        )
    return min(grids)


def _divergence(part: SampledGaussian) -> float:
    """Return a bound on the mean privacy loss of a step, from the chi-square divergence of the sampled Gaussian."""
    whole = 1 / (2 * part.noise_multiplier**2)
    if whole > 1:  # the exponential would be of no use
        return whole
    return min(whole, log1p(part.sampling_rate**2 * expm1(2 * whole)))


# Distributions on a fine grid are large, those on a coarse one small and many.
@lru_cache(maxsize=512)
def _coarse(rate: float, noise: float, steps: int, grid: float) -> _Composition:
    return _make(rate, noise, steps, grid)


@lru_cache(maxsize=16)
def _fine(rate: float, noise: float, steps: int, grid: float) -> _Composition:
    return _make(rate, noise, steps, grid)


def _composition(rate: float, noise: float, steps: int, grid: float) -> _Composition:
    return (_coarse if grid >= _COARSE else _fine)(rate, noise, steps, grid)


def _make(rate: float, noise: float, steps: int, grid: float) -> _Composition:
    if steps > 1:
        return _composition(rate, noise, 1, grid).repeated(steps)
    return _Composition(distribution=gaussian_losses(rate, noise, grid), error=rounding.CONSTRUCTION)
