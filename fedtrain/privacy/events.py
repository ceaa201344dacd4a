"""Mechanisms as data: what was done to the records, in a form that anyone can account for again."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """Steps of the Poisson-sampled Gaussian mechanism (Abadi et al. 2016; Mironov et al. 2019).

    In each step every record enters independently with ``sampling_rate``; the sum of their contributions, each of L2
    norm at most C, is released with Gaussian noise of standard deviation ``noise_multiplier * C``.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int


def merge(events: Iterable[SampledGaussian]) -> tuple[SampledGaussian, ...]:
    """Join events of the same mechanism into one. Order does not matter to their composition."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.sampling_rate, event.noise_multiplier)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(
        SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=count)
        for (rate, noise), count in sorted(steps.items())
    )
