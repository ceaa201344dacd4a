"""A check, in the first step of each round, that the mechanism did what the plan says, before anything is sent.

It is there for what no type can rule out: a library that changed, a layer that escapes the hooks, a device that
computes something else. It works on the tensors that are about to be used, by other code than that which made them. No
message of it says anything about the batch, its size included. That it fails can depend on the records in one case
only: where their sum is so long that the noise is lost beside it in rounding, and the step would not be private.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedtrain.errors import ClientError
from fedtrain.privacy import PrivacyPlan
from fedtrain.training.gradients import rows_of

# A record's clipped gradient may be longer than the bound by this much, relatively: rounding is some 1e-6.
CLIP_TOLERANCE = 1e-4

# Measured over declared deviation of the noise; of 1,000 values its own deviation is 0.022.
NOISE_RATIO = (0.8, 1.25)
ENOUGH_VALUES = 1000


class SelfCheck:
    """Follows a round of private training until a whole step with records has been seen, then rests.

    Attributes:
        done: whether it rests.
        compared: whether losses of several records were compared with those of each alone.
    """

    def __init__(self, model: nn.Module, plan: PrivacyPlan) -> None:
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._clip_norm = plan.spec.clip_norm
        self._std = plan.noise_multiplier * plan.spec.clip_norm
        self._received = [value.detach().clone() for value in self._parameters.values()]
        self._expected: list[Tensor] = []
        self._records = 0
        self.done = False
        self.compared = False

    def after_clipping(self) -> None:
        """Compare the sum so far with that of the records' gradients, each scaled down to the clipping norm.

        Called once for each chunk of a batch, while ``grad_sample`` holds the chunk and ``summed_grad`` the sum.

        Raises:
            ClientError: a record could have contributed more than the clipping norm.
        """
        if self.done:
            return
        parameters = self._parameters.values()
        gradients = [_single(value.grad_sample) for value in parameters]  # type: ignore[attr-defined]
        self._records += len(gradients[0])
        norms = torch.stack([rows_of(gradient).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (self._clip_norm / (norms + 1e-6)).clamp(max=1.0)
        chunk = [torch.einsum("i,i...", factors, gradient) for gradient in gradients]
        self._expected = [a + b for a, b in zip(self._expected, chunk, strict=True)] if self._expected else chunk
        sums: list[Tensor] = [value.summed_grad for value in parameters]  # type: ignore[attr-defined]
        off = torch.stack([(a - b).norm() for a, b in zip(sums, self._expected, strict=True)]).norm()
        rounding = 4 * torch.finfo(sums[0].dtype).eps * self._records
        # Written so that a NaN fails.
        if not off <= self._clip_norm * (CLIP_TOLERANCE + rounding):
            raise _broken(f"the gradients of single records were not clipped to {self._clip_norm:g}")

    def after_noise(self, noisy: Sequence[Tensor]) -> None:
        """Compare the sums with noise with those without, before they are divided.

        Args:
            noisy: for each parameter its sum with noise.

        Raises:
            ClientError: the noise is missing in a parameter, is lost in rounding, or has another scale.
        """
        if self.done:
            return
        squares, count = 0.0, 0
        for (name, value), total in zip(self._parameters.items(), noisy, strict=True):
            added = total - value.summed_grad  # type: ignore[attr-defined]
            # Single values may be rounded away; that half of them are is no chance.
            if not int((added != 0).sum()) >= added.numel() / 2:
                raise _broken(f"no noise was added to the gradient of {name}, or it is lost in rounding")
            squares, count = squares + float(added.double().square().sum()), count + added.numel()
        ratio = (squares / count) ** 0.5 / self._std
        if count >= ENOUGH_VALUES and not NOISE_RATIO[0] <= ratio <= NOISE_RATIO[1]:
            raise _broken(f"the noise has {ratio:.3g} times the declared standard deviation")

    def after_step(self) -> None:
        """Compare the weights with those received, and rest if the step was one with records.

        Raises:
            ClientError: no weight changed.
        """
        if self.done:
            return
        if all(torch.equal(a, b) for a, b in zip(self._parameters.values(), self._received, strict=True)):
            raise _broken("the weights did not change, although every step adds noise: is the learning rate too small?")
        self.done = self._records > 0
        self._expected.clear()
        if self.done:
            self._received.clear()


def _single(gradient: Tensor) -> Tensor:
    """Return a gradient in single precision at least."""
    return gradient.float() if gradient.dtype.itemsize < torch.float32.itemsize else gradient


def _broken(what: str) -> ClientError:
    return ClientError(
        f"the self-check of private training failed: {what}. Nothing was sent. Check that the installed versions of "
        "torch and Opacus are those that fedtrain asks for, and try the model alone"
    )
