"""The embedding of a text by MiniLM, and beside it what its last layer but one makes of the text.

The last layer was trained to tell which texts mean the same. The one before knows more of what they are about, so that
a linear model on both is better, also where noise in more numbers is in the price. The weights are those of the
built-in encoder, and nothing was fitted.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data import DataInfo
from fedtrain.encoders.minilm import MiniLM, minilm_encoder

WEIGHT: Final = 0.5
"""Of the last layer but one, where that of the last is 1."""


class LastTwoLayers(nn.Module):
    """The means over the tokens of the last layer and of the one before, of norm 1 together.

    Args:
        network: the built-in encoder.
    """

    def __init__(self, network: MiniLM) -> None:
        super().__init__()
        self.network = network

    def forward(self, texts: Tensor) -> Tensor:
        """Return features, float32 of shape (1, 768), of stored bytes, uint8 of shape (1, bytes)."""
        before: list[Tensor] = []

        def keep(_module: nn.Module, _arguments: Any, made: Tensor) -> None:
            before.append(functional.normalize(made.mean(1)))

        with self.network.blocks[-2].register_forward_hook(keep):
            last = self.network(texts)
        return functional.normalize(torch.cat([last, WEIGHT * before[0]], 1))


def build(info: DataInfo) -> LastTwoLayers:
    """Return the encoder of the texts of a data set."""
    return LastTwoLayers(minilm_encoder(info))
