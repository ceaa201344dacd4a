"""Randomness that repeats: for simulations, where the noise protects nobody."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedtrain.privacy.noise.types import check_probability, check_std
from fedtrain.seeding import seeded_generator


class SeededSource:
    """Draws from torch's generators, by a seed.

    The noise and the samples have a stream each, so that how many are drawn of one does not change the other; the noise
    has one for each device. Anyone who knows the seed can subtract the noise.
    """

    name = "seeded"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._noise: dict[torch.device, torch.Generator] = {}
        self._sampling = seeded_generator(seed, "sampling")

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return Gaussians of the shape, drawn on the device in the precision of ``dtype``."""
        check_std(std)
        if device not in self._noise:
            self._noise[device] = seeded_generator(self._seed, "noise", device=device)
        return torch.normal(0.0, std, tuple(shape), generator=self._noise[device], device=device, dtype=dtype)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask by comparing uniforms of 53 bits."""
        check_probability(probability)
        return torch.rand(count, generator=self._sampling, dtype=torch.float64) < probability
