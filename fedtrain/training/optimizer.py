"""Opacus' private optimizer, with the noise of a source and a divisor that nothing changes."""

from opacus.optimizers import DPOptimizer
from torch.optim import Optimizer

from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import RandomSource


class SourcedOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Clips as Opacus does, and takes noise and divisor from the plan.

    One logical batch is ``clip_and_accumulate`` for each chunk of it, then ``add_noise`` and ``scale_grad`` once.
    """

    def __init__(self, optimizer: Optimizer, *, plan: PrivacyPlan, source: RandomSource) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.spec.clip_norm,
            expected_batch_size=plan.spec.divisor,
        )
        self._source = source

    def add_noise(self) -> None:
        """Set each gradient to the sum of the clipped ones plus Gaussians of noise multiplier * clip norm."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            total = parameter.summed_grad
            noise = self._source.gaussian(total.shape, std=std, device=total.device, dtype=total.dtype)
            parameter.grad = (total + noise).view_as(parameter)

    def scale_grad(self) -> None:
        """Divide by the public divisor, once for however many chunks the batch had."""
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
