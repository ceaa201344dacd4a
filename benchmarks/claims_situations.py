"""The models, losses and records of the situations, the same for each program."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from opacus.layers import DPLSTM
from torch import Tensor, nn

WIDTH = 6
CLASSES = 3
CLIP = 0.1
Loss = Callable[[Tensor, Tensor], Tensor]


class Perceptron(nn.Module):
    """Two layers on six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(features)))  # type: ignore[no-any-return]


class Centred(Perceptron):
    """The perceptron, on features less their mean over the batch."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features - features.mean(0))


class Packed(nn.Module):
    """A recurrent layer on sequences of unsorted lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2, 4)
        self.layer = DPLSTM(4, 5, batch_first=True)
        self.last = nn.Linear(5, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        words = (features > 0).long()
        lengths = words.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.words(words), lengths, batch_first=True, enforce_sorted=False)
        return self.last(self.layer(packed)[1][0][-1])  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.again.weight = self.first.weight

    def forward(self, features: Tensor) -> Tensor:
        return self.again(self.first(features))[:, :CLASSES]  # type: ignore[no-any-return]


class MaxNorm(nn.Module):
    """An embedding that shortens the rows of the tokens that occur, in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4, max_norm=1.0)
        self.last = nn.Linear(4, CLASSES)
        with torch.no_grad():
            self.words.weight.mul_(10 / self.words.weight.norm(dim=1, keepdim=True))

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.words(features.abs().long().clamp(max=7)).mean(1))  # type: ignore[no-any-return]


class Wide(nn.Module):
    """One layer without a bias: of features that are zero, its gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(64, 64, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.only(features)  # type: ignore[no-any-return]


class Normalised(Perceptron):
    """The perceptron with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.BatchNorm1d(8)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(torch.tanh(self.between(self.first(features))))  # type: ignore[no-any-return]


def plain(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each record."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def class_weights(outputs: Tensor, targets: Tensor) -> Tensor:
    """Class weights, as torch divides by their sum over the batch."""
    weight = torch.tensor([1.0, 1.0, 50.0], dtype=outputs.dtype)
    losses = nn.functional.cross_entropy(outputs, targets, weight=weight, reduction="none")
    return losses * len(targets) / weight[targets].sum()


@dataclass(frozen=True, kw_only=True)
class Learning:
    """One step of private training on a few records, all of them drawn."""

    situation: str
    model: Callable[[], nn.Module]
    loss: Loss = plain
    count: int = 12
    dtype: torch.dtype = torch.float32
    clip: float = CLIP
    ghost: bool = False

    def records(self) -> tuple[Tensor, Tensor]:
        """Return features, shape (n, 6), and targets, shape (n,). The last class has one record; one is far off."""
        draw = torch.Generator().manual_seed(0)
        features = torch.randn(self.count, WIDTH, generator=draw) * 2
        targets = torch.randint(CLASSES - 1, (self.count,), generator=draw)
        targets[0] = CLASSES - 1
        features[1] *= 20
        return features.to(self.dtype), targets

    def without(self) -> Iterator[Tensor]:
        """Yield what is left of the records without one, for some of them."""
        everyone = torch.arange(self.count)
        for one in everyone[:: max(1, self.count // 24)]:
            yield everyone[everyone != one]


LEARNING = (
    Learning(situation="sequences packed by length", model=Packed, count=120),
    Learning(situation="class weights in the batch's mean", model=Perceptron, loss=class_weights, clip=1.0),
    Learning(situation="features less the batch's mean", model=Centred),
    Learning(situation="batch normalisation", model=Normalised),
    Learning(situation="tied weights", model=Tied),
    Learning(situation="tied weights, ghost clipping", model=Tied, ghost=True),
    Learning(situation="steps in bfloat16", model=Perceptron, count=120, dtype=torch.bfloat16),
)
