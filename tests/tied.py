"""A task whose model has weights under several names."""

import torch
from torch import nn

from fedtrain.config.sections import TaskConfig
from fedtrain.data import DataInfo
from fedtrain.tasks.supervised import Vision


class TiedNet(nn.Module):
    """An autoencoder whose decoder is its encoder, in each way in which a tensor can have two names, and a classifier.

    Weights are one parameter, or two on the same memory; a buffer is one too.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 8)
        self.decoder = nn.Linear(8, 64)
        self.decoder.weight = nn.Parameter(self.encoder.weight.data.t().contiguous())
        self.again = nn.Linear(64, 8, bias=False)
        self.again.weight = self.encoder.weight
        self.back = nn.Linear(8, 64, bias=False)
        self.back.weight = nn.Parameter(self.decoder.weight.data)
        self.head = nn.Linear(8, classes)
        self.encoder.register_buffer("scale", torch.full((8,), 2.0))
        self.again.register_buffer("scale", self.encoder.scale)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, classes)."""
        hidden = torch.tanh(self.encoder(inputs.flatten(1))) * self.encoder.scale
        hidden = torch.tanh(self.again(self.decoder(hidden)))
        hidden = torch.tanh(self.again(self.back(hidden))) * self.again.scale
        return self.head(hidden)


SECOND_NAMES = {
    "again.weight": "encoder.weight",
    "again.scale": "encoder.scale",
    "back.weight": "decoder.weight",
}


class TiedDigits(Vision):
    """The digits, with a model whose weights are tied."""

    def __init__(self, info: DataInfo) -> None:
        super().__init__(TaskConfig(), info)
        self._classes = len(info.classes)

    def model(self) -> nn.Module:
        """Build it."""
        return TiedNet(self._classes)
