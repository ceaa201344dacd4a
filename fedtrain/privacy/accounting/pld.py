"""Privacy loss distributions (PLD) by dp-accounting: the claim.

Pessimistic discretization (Doroshenko et al. 2022, "connect the dots"): an upper bound, within rounding. Neighbouring
data sets differ in one unit added or removed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import expm1, log1p, sqrt

from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

from fedtrain.errors import PrivacySpecError
from fedtrain.privacy.accounting.base import Accountant, bounded, folded, gaussians
from fedtrain.privacy.events import Event, SampledGaussian, merge

# The grids of the privacy loss, finest first. Over T steps, a grid of h loosens the bound by about T h^2 / 3.
GRIDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
_COARSE = 1e-3

# Points of one mechanism (5 microseconds each) and of a composition (a Fourier transform) that are worth waiting for.
_MECHANISM_POINTS, _COMPOSED_POINTS = 250_000, 2_000_000

# Points of all mechanisms together: so many different ones fit on the fine grid, and on the coarse one.
_FEW, _MANY = 4, 50

# Below this the rounding of a Fourier transform is no longer small against delta.
_SMALLEST_DELTA = 1e-12


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
        if delta < _SMALLEST_DELTA:
            raise PrivacySpecError(f"delta {delta:g} is lost in rounding; at least {_SMALLEST_DELTA:g} is allowed")
        parts = folded(found)
        grid = _grid(parts, self.discretization)
        total = pld.identity(grid)
        for event in found:
            if event.sampling_rate < 1:
                total = total.compose(_distribution(event.sampling_rate, event.noise_multiplier, event.steps, grid))
        if parts[-1].sampling_rate == 1:
            total = total.compose(_distribution(1.0, parts[-1].noise_multiplier, 1, grid))
        return bounded(total.get_epsilon_for_delta(delta), delta)


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
def _coarse(rate: float, noise: float, steps: int, grid: float) -> PrivacyLossDistribution:
    return _make(rate, noise, steps, grid)


@lru_cache(maxsize=16)
def _fine(rate: float, noise: float, steps: int, grid: float) -> PrivacyLossDistribution:
    return _make(rate, noise, steps, grid)


def _distribution(rate: float, noise: float, steps: int, grid: float) -> PrivacyLossDistribution:
    return (_coarse if grid >= _COARSE else _fine)(rate, noise, steps, grid)


def _make(rate: float, noise: float, steps: int, grid: float) -> PrivacyLossDistribution:
    if steps > 1:
        return _distribution(rate, noise, 1, grid).self_compose(steps)
    return pld.from_gaussian_mechanism(noise, value_discretization_interval=grid, sampling_prob=rate)
