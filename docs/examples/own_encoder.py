"""An encoder of one's own: features of random patches, which saw no record."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data import DataInfo
from fedtrain.errors import TaskError

PATCHES, SIDE = 64, 5


class RandomPatches(nn.Module):
    """How much of each random patch is in each quarter of an image, as in Coates, Ng and Lee 2011."""

    def __init__(self, channels: int) -> None:
        """Draw the patches, which are the same on every machine: the digest says so."""
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("patches", torch.randn(PATCHES, channels, SIDE, SIDE, generator=draw))

    def forward(self, images: Tensor) -> Tensor:
        """Return features of norm 1, shape (1, 64, 2, 2), of pixels, uint8 of shape (1, channels, height, width)."""
        found = functional.conv2d(images.to(torch.float32) / 255, self.get_buffer("patches"), padding=SIDE // 2)
        pooled = functional.adaptive_avg_pool2d(functional.relu(found), 2)
        return functional.normalize(pooled.flatten(1)).reshape(pooled.shape)


def build(info: DataInfo) -> RandomPatches:
    """Return the encoder of the images of a data set."""
    if info.kind != "image":
        raise TaskError(f'own_encoder takes images, and this data set is of kind "{info.kind}".')
    return RandomPatches(info.shape[0])
