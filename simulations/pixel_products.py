"""Pixels of small images and the products of two of them: an encoder of an experiment's own, which saw no record.

A linear model on them is a polynomial of degree 2 in the pixels. It is smoother than one on random Fourier features:
with much noise it is better, with little noise worse.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data import DataInfo
from fedtrain.errors import TaskError

PIXELS = 0.5
"""The weight of the pixels themselves, which have norm 1 as their products do."""


class PixelProducts(nn.Module):
    """The pixels of an image without their mean, and all products of two, at norm 1."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(pixels, pixels)
        same = rows == columns
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        # A product of two different pixels stands for both orders.
        self.register_buffer("weights", torch.where(same, 1.0, math.sqrt(2)))
        # The mean of products over images in random directions.
        self.register_buffer("centre", same / pixels)

    def forward(self, images: Tensor) -> Tensor:
        """Return p + p (p + 1) / 2 features of norm 1, of p pixels of shape (1, channels, height, width)."""
        pixels = images.flatten(1).to(torch.float32)
        pixels = functional.normalize(pixels - pixels.mean(1, keepdim=True))
        products = pixels[:, self.get_buffer("rows")] * pixels[:, self.get_buffer("columns")]
        products = products * self.get_buffer("weights") - self.get_buffer("centre")
        return functional.normalize(torch.cat([PIXELS * pixels, products], dim=1))


def build(info: DataInfo) -> PixelProducts:
    """Return the encoder of the images of a data set."""
    if info.kind != "image":
        raise TaskError(f'pixel_products takes images, and this data set is of kind "{info.kind}".')
    return PixelProducts(math.prod(info.shape))
