"""Random Fourier features of small images: an encoder of an experiment's own, which saw no record.

A linear model on them is about a kernel machine with a Gaussian kernel (Rahimi and Recht 2007, "Random Features for
Large-Scale Kernel Machines"). Noise in the weights moves the output for a record by as much as the norm of its
features, however many there are, so that thousands of features of norm 1 cost no more noise than 64 pixels of norm 1.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data import DataInfo
from fedtrain.errors import TaskError

FREQUENCIES = 1024
GAMMA = 1.5
"""The kernel of images x and y of norm 1 is ``exp(-GAMMA |x - y|^2)``."""


class RandomFourierFeatures(nn.Module):
    """Cosines and sines of random projections of an image without its mean, at norm 1."""

    def __init__(self, pixels: int) -> None:
        """Draw the frequencies, which are the same on every machine: the digest says so."""
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        frequencies = math.sqrt(2 * GAMMA) * torch.randn(pixels, FREQUENCIES, generator=draw)
        self.register_buffer("frequencies", frequencies)
        # The mean of a cosine over images in random directions: of norm 1, a projection is about Gaussian.
        self.register_buffer("centre", torch.exp(-frequencies.square().sum(0) / (2 * pixels)))

    def forward(self, images: Tensor) -> Tensor:
        """Return features of norm 1, shape (1, 2 FREQUENCIES), of pixels of shape (1, channels, height, width)."""
        pixels = images.flatten(1).to(torch.float32)
        phases = functional.normalize(pixels - pixels.mean(1, keepdim=True)) @ self.get_buffer("frequencies")
        found = torch.cat([torch.cos(phases) - self.get_buffer("centre"), torch.sin(phases)], dim=1)
        return functional.normalize(found)


def build(info: DataInfo) -> RandomFourierFeatures:
    """Return the encoder of the images of a data set."""
    if info.kind != "image":
        raise TaskError(f'random_features takes images, and this data set is of kind "{info.kind}".')
    return RandomFourierFeatures(math.prod(info.shape))
