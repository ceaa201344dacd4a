"""Client-level privacy: each client's whole update is clipped, and one Gaussian is added to the sum.

This is the mechanism of DP-FedAvg (McMahan et al. 2018) with the adaptive clipping of Andrew et al. 2021 (algorithm 1).
What it keeps, whatever a client sends:

- an update is one vector over all arrays together, matched by name; its L2 norm is at most the clipping norm, and an
  update that is not finite counts as zero;
- the divisor is public: never the number of clients that were drawn or answered;
- with no updates at all the release is noise, like any other;
- the count of adaptive clipping is centred, so that a client moves it by 1/2, and has noise that is accounted for.

Updates are ordered mappings of names to floating arrays, and hold the trained parameters only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
import torch
from numpy.typing import NDArray

from fedtrain.errors import RunError
from fedtrain.privacy.clipping import Update, clip_update
from fedtrain.privacy.noise import RandomSource
from fedtrain.privacy.plan import PrivacyPlan
from fedtrain.privacy.spec import PROTECTED, AdaptiveClipping, PrivacySpec

# An adaptive clipping norm outside of these has run away: training stands still, or the noise drowns it.
_NORMS = (1e-12, 1e12)


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one client adds to a round.

    Attributes:
        update: the change of each trained array; clipped again before it is summed.
        within: whether the norm of the update was at most the clipping norm before it was clipped. Not used if the
            clipping norm is fixed.
    """

    update: Update
    within: bool


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a round makes public.

    Attributes:
        mean: the noisy sum of the updates over the public divisor, by name, in float64.
        clip_norm: the clipping norm of the next round.
    """

    mean: dict[str, NDArray[np.float64]]
    clip_norm: float


def release(
    plan: PrivacyPlan,
    *,
    clip_norm: float,
    shapes: Mapping[str, tuple[int, ...]],
    contributions: Iterable[Contribution],
    source: RandomSource,
) -> Release:
    """Sum what the clients contribute, add noise, and divide by the plan's public divisor.

    Contributions are summed in their order, in float64. Noise is drawn for each array in the order of ``shapes``, then
    for the count.

    Formal guarantee: if the noise cannot be predicted, the release is the output of one step of ``plan.event`` on the
    clients that contribute, each of which may be added, removed, or replaced by zero; whatever any of them sends. The
    sum has noise of ``plan.value_noise_multiplier * clip_norm``, the count of ``count_noise``, and the two together are
    one Gaussian mechanism of ``plan.noise_multiplier`` (Andrew et al. 2021, theorem 1).

    Args:
        plan: the plan, whose unit is the client.
        clip_norm: the clipping norm of this round, the same at each client.
        shapes: the shape of each array of an update.
        contributions: of the clients that were drawn and answered; may be empty.
        source: where the noise comes from.

    Raises:
        ValueError: the plan protects records, ``clip_norm`` is not finite and above 0, or a contribution has other
            names or shapes than ``shapes``.
        RunError: the clipping norm ran away.
    """
    _checked(plan, clip_norm)
    total = {name: np.zeros(shape) for name, shape in shapes.items()}
    count = 0.0
    for contribution in contributions:
        received = {name: value.shape for name, value in contribution.update.items()}
        if received != dict(shapes):
            raise ValueError(f"an update has the arrays {received}, and {dict(shapes)} are allowed")
        # Clipped again: the bound must not depend on what a client did.
        clipped, _ = clip_update(contribution.update, clip_norm)
        for name, value in clipped.items():
            total[name] += value
        count += 0.5 if contribution.within else -0.5
    return release_sum(plan, clip_norm=clip_norm, total=total, count=count, source=source)


def release_sum(
    plan: PrivacyPlan,
    *,
    clip_norm: float,
    total: Mapping[str, NDArray[np.float64]],
    count: float,
    source: RandomSource,
    modulus: float = inf,
    count_modulus: float = inf,
    largest_count: float = inf,
) -> Release:
    """Add noise to a sum of clipped updates, and divide it by the plan's public divisor.

    Noise is drawn for each array in the order of ``total``, then for the count.

    Formal guarantee: as of `release`, for each client whose own update in the sum has a norm of at most ``clip_norm``
    and whose part in the count is at most 1/2, whatever the others send. A server that sees only the sum cannot make
    sure of that: each client's own program does.

    A sum that was computed modulo a number is reduced again when it has its noise. Without that, a client that brings a
    coordinate to the edge of the range would let the smallest update of another flip it by the whole range, which no
    noise hides. With it, the result is that of the true sum and its noise, reduced: nothing but post-processing.

    Args:
        plan: the plan, whose unit is the client.
        clip_norm: the clipping norm of this round, the same at each client.
        total: the sum of the updates, by name, each number known up to multiples of ``modulus``.
        count: the sum of +1/2 for each client within the clipping norm, and -1/2 for each other, likewise.
        source: where the noise comes from.
        modulus: the range of the sums; infinite if they are not reduced.
        count_modulus: the range of the count.
        largest_count: the largest magnitude of a count that nobody forged. The noisy count is brought down to it, since
            one forged word would otherwise set the clipping norm of all.

    Raises:
        ValueError: the plan protects records, or ``clip_norm`` is not finite and above 0.
        RunError: the clipping norm ran away.
    """
    spec = _checked(plan, clip_norm)
    deviation = plan.value_noise_multiplier * clip_norm
    mean = {
        name: _reduced(value + _noise(source, value.shape, deviation), modulus) / spec.divisor
        for name, value in total.items()
    }
    if spec.adaptive is not None:
        noisy_count = float(_reduced(count + _noise(source, (), spec.adaptive.count_noise), count_modulus))
        noisy_count = min(max(noisy_count, -largest_count), largest_count)
        clip_norm = next_clip_norm(spec.adaptive, clip_norm, noisy_count=noisy_count, divisor=spec.divisor)
    return Release(mean=mean, clip_norm=clip_norm)


def next_clip_norm(adaptive: AdaptiveClipping, clip_norm: float, *, noisy_count: float, divisor: int) -> float:
    """Return the next clipping norm, ``C * exp(-rate * (b - quantile))`` (Andrew et al. 2021, algorithm 1).

    ``b`` estimates the fraction of updates within the clipping norm: ``noisy_count`` is the sum of +1/2 for each client
    within it and -1/2 for each other, with noise, so ``b = noisy_count / divisor + 1/2``. A client that is missing
    counts 0, as if half of it were within.

    Where more than the quantile are within, the norm shrinks; where fewer are, it grows.

    Raises:
        RunError: the result is so small or large that nothing can be learnt with it.
    """
    fraction = noisy_count / divisor + 0.5
    exponent = -adaptive.learning_rate * (fraction - adaptive.quantile)
    low, high = _NORMS
    if not log(low) <= log(clip_norm) + exponent <= log(high):
        raise RunError(
            f"adaptive clipping ran away: the clipping norm is {clip_norm:g}, the noisy fraction of updates within it "
            f"{fraction:.4g}, and the next norm would not be in {low:g} to {high:g}; lower privacy.clipping_rate or "
            "privacy.clipping_noise, or start from another privacy.clip_norm"
        )
    return clip_norm * exp(exponent)


def poisson_cohort(clients: Sequence[int], rate: float, source: RandomSource) -> tuple[int, ...]:
    """Draw a cohort: each client with probability ``rate``, independently of all others. It may be empty.

    The amplification by sampling holds against those who do not know the cohort: neither it nor its size may be
    published.
    """
    drawn = source.bernoulli(len(clients), rate)
    return tuple(client for client, taken in zip(clients, drawn.tolist(), strict=True) if taken)


def _checked(plan: PrivacyPlan, clip_norm: float) -> PrivacySpec:
    if plan.spec.neighbouring not in PROTECTED["client"].neighbouring:
        raise ValueError(f"the plan protects one {plan.spec.unit}, and a plan that protects one client is allowed")
    if not 0 < clip_norm < inf:
        raise ValueError(f"clip_norm = {clip_norm!r} is not allowed: it is finite and above 0")
    return plan.spec


def _reduced(value: NDArray[np.float64], modulus: float) -> NDArray[np.float64]:
    """Return what is left of each number after the nearest multiple of the modulus is taken away."""
    return value - modulus * np.rint(value / modulus) if modulus < inf else value


def _noise(source: RandomSource, shape: tuple[int, ...], deviation: float) -> NDArray[np.float64]:
    drawn = source.gaussian(shape, std=deviation, device=torch.device("cpu"), dtype=torch.float64)
    return np.asarray(drawn.numpy(), dtype=np.float64)
