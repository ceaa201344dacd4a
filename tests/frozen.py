"""A task whose model has a frozen part with a buffer, which it declares public."""

import torch
from torch import nn

from fedtrain.config.sections import TaskConfig
from fedtrain.data import DataInfo
from fedtrain.tasks import PublicWeights, digest_of_frozen
from fedtrain.tasks.supervised import Vision


class Shift(nn.Module):
    """Subtracts what it holds in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((16,), 0.25))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (n, 16) to the same shape."""
        return hidden - self.mean


class Following(Shift):
    """The same where the buffer follows the records."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (n, 16) to the same shape."""
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * hidden.detach().mean(0))
        return super().forward(hidden)


class FrozenNet(nn.Module):
    """A frozen layer whose values are shifted, and a trained last layer."""

    def __init__(self, classes: int, shift: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.frozen = nn.Sequential(nn.Linear(64, 16), shift).requires_grad_(False)
        self.head = nn.Linear(16, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, classes)."""
        return self.head(torch.relu(self.frozen(inputs.flatten(1))))


class FrozenDigits(Vision):
    """The digits, with that model."""

    shift = Shift

    def __init__(self, info: DataInfo) -> None:
        super().__init__(TaskConfig(), info)
        self._classes = len(info.classes)

    def model(self) -> nn.Module:
        """Build it."""
        return FrozenNet(self._classes, self.shift())

    def public_weights(self, model: nn.Module) -> PublicWeights:
        """Declare the frozen part, by the digest of a copy of its own."""
        del model
        return PublicWeights(origin="a seed", digest=digest_of_frozen(FrozenNet(self._classes, Shift())))


class FollowingDigits(FrozenDigits):
    """The digits, with a buffer that follows the records."""

    shift = Following
