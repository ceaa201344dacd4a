"""Opacus' private optimizer, with the noise of a source and a divisor that nothing changes."""

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import RandomSource
from fedtrain.training.gradients import rows_of


class SourcedOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Clips as Opacus does, and takes noise and divisor from the plan.

    One logical batch is ``clip_and_accumulate`` for each chunk of it, then ``add_noise`` and ``scale_grad`` once.
    Norms, sums and noise are in single precision at least, also where the model is in half precision: rounding in half
    precision makes a clipped gradient longer than the bound.

    Attributes:
        noisy: after ``add_noise``, for each parameter the sum with its noise.
    """

    def __init__(self, optimizer: Optimizer, *, plan: PrivacyPlan, source: RandomSource) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.spec.clip_norm,
            expected_batch_size=plan.spec.divisor,
        )
        self._source = source
        self.noisy: list[Tensor] = []

    def clip_and_accumulate(self) -> None:
        """Add the gradients of a chunk's records to ``summed_grad``, each scaled down to the clipping norm."""
        if not any(_half(parameter) for parameter in self.params):
            super().clip_and_accumulate()
            return
        gradients = [parameter.grad_sample.to(_precision(parameter)) for parameter in self.params]
        norms = torch.stack([rows_of(gradient).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter, gradient in zip(self.params, gradients, strict=True):
            total = torch.einsum("i,i...", factors.to(gradient), gradient)
            before = parameter.summed_grad
            parameter.summed_grad = total if before is None else before + total

    def add_noise(self) -> None:
        """Add Gaussians of noise multiplier * clip norm to the sum of the clipped gradients."""
        std = self.noise_multiplier * self.max_grad_norm
        self.noisy = []
        for parameter in self.params:
            total = parameter.summed_grad
            noise = self._source.gaussian(total.shape, std=std, device=total.device, dtype=total.dtype)
            self.noisy.append((total + noise).view_as(parameter))

    def scale_grad(self) -> None:
        """Set each gradient to the noisy sum over the public divisor, once for however many chunks the batch had."""
        for parameter, total in zip(self.params, self.noisy, strict=True):
            parameter.grad = (total / self.expected_batch_size).to(parameter.dtype)


def _half(parameter: Tensor) -> bool:
    return parameter.dtype.itemsize < torch.float32.itemsize


def _precision(parameter: Tensor) -> torch.dtype:
    return torch.float32 if _half(parameter) else parameter.dtype
