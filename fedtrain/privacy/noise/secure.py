"""Randomness for deployment: a cryptographic stream, and Gaussians that are hard to invert.

What the Gaussians defend against. Floating-point noise does not reach every number, and which results it reaches
depends on what it was added to (Mironov 2012, "On significance of the least significant bits for differential
privacy"). For Gaussians of one Box-Muller pair an attacker can search for the uniforms that explain a result, and rule
out values for which there are none (Jin et al. 2022; Holohan and Braghin 2021, "Secure random sampling in differential
privacy"). By the latter's section 5.1, each value here is the sum of 2n = 4 Gaussians divided by sqrt(4); Opacus'
secure mode takes n = 2 too. The search for the 53-bit uniforms behind one value then costs about
2^(53 (2n - 1)) = 2^159 steps.

What they do not give. This makes a known attack infeasible; it is no proof. The sum of gradients and its noise are
still floats, rounded after every operation, and the guarantee is that of the real-valued Gaussian, which floats
approximate. A uniform of 53 bits also ends each Gaussian at 8.57 standard deviations, beyond which the true one has a
probability of 1e-17. Timing is not hidden. A reader of this process's memory reads the records in it, too.
"""

from collections.abc import Sequence
from math import pi, prod

import torch
from torch import Tensor

from fedtrain.privacy.noise.keystream import Keystream
from fedtrain.privacy.noise.types import check_probability, check_std

_SUMMED = 4
_UNIT = 2.0**-53

# Pairs of values made at once: a few megabytes of temporaries, whatever the size of the result.
_CHUNK = 1 << 13


class SecureSource:
    """Draws from a keystream of its own, on the CPU."""

    name = "secure"

    def __init__(self) -> None:
        self._stream = Keystream()

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return Gaussians of the shape, made in float64 on the CPU, then rounded once to ``dtype``."""
        check_std(std)
        values = torch.empty(prod(shape), dtype=dtype)
        for chunk in torch.split(values, 2 * _CHUNK):
            pairs = (len(chunk) + 1) // 2
            chunk.copy_(self._pairs(pairs).mul_(std)[: len(chunk)])
        return values.reshape(tuple(shape)).to(device)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask by comparing integers of 53 bits.

        The probability is exact to 2^-53, and never above the one declared: more sampling would be less privacy.
        """
        check_probability(probability)
        return self._stream.words(count) < int(probability * 2**53)

    def _pairs(self, count: int) -> Tensor:
        """Return 2 * count standard Gaussians: Box and Muller 1958, each summed over four independent pairs.

        The four parts of a value come from different pairs: the two values of one pair sum to a single Gaussian, which
        would halve the defence.
        """
        words = self._stream.words(2 * _SUMMED * count).to(torch.float64).reshape(2, _SUMMED, count)
        # In (0, 1], so that the logarithm is finite.
        radius = words[0].add_(1.0).mul_(_UNIT).log_().mul_(-2.0).sqrt_()
        angle = words[1].mul_(2 * pi * _UNIT)
        values = torch.cat([(radius * angle.cos()).sum(0), (radius * angle.sin()).sum(0)])
        return values.div_(_SUMMED**0.5)
