"""What patches of small images have in common with patches of two public photographs: an encoder of an experiment's own.

Sources: Coates and Ng 2011, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization",
for whitened patches that are compared with patches that were drawn at random; the two photographs that come with
scikit-learn, which are not of the data set. Nothing else was looked at for a constant, and nothing was trained.

1. Each patch of an image is brought to mean 0 and about deviation 1, and whitened: the covariance is that of patches of
   the photographs. It is multiplied by patches of the photographs, which are whitened likewise and have norm 1.
2. What is above a threshold, and what is below its negative, are averaged over a grid of cells.
3. Their means over crops of the photographs are taken off, and they are whitened by their covariance over these crops.
   Gradients of a linear model then go less along what most features have in common, and noise is alike in all
   directions.
"""

from functools import cache
from typing import Final

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data import DataInfo
from fedtrain.errors import TaskError

SIDE: Final = 6
"""Of a patch, in pixels."""
STEP: Final = 2
"""Pixels from one patch to the next."""
PATCHES: Final = 512
"""Patches of the photographs that others are compared with; each gives two features of a cell."""
CELLS: Final = 3
"""Of the grid, in each direction."""
THRESHOLD: Final = 1.0

_SCALES = (2, 3, 4, 6)  # photographs are made smaller by these
_CROPS = 2000
_AT_ONCE = 20
_SMALLEST = 16
_BORDER = 2
_CONTRAST = 1e-3  # added to the variance of a patch of pixels from 0 to 1
_PATCH_FLOOR, _FEATURE_FLOOR = 1e-2, 5e-2  # added to variances before roots are taken: of patches, and of mean variance


class PhotographPatches(nn.Module):
    """Features of norm 1 of square colour images of one size.

    Args:
        size: the side of an image in pixels, 16 or more.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        photographs = _photographs()  # in double precision, as all that is computed here
        patches = _even(torch.cat([_patches(photograph[None], 1)[0] for photograph in photographs]))
        whitening = _whitening(patches, _PATCH_FLOOR)
        drawn = patches[torch.randperm(len(patches), generator=draw)[:PATCHES]]
        self.register_buffer("filters", _on_grid(functional.normalize(drawn @ whitening) @ whitening))
        places = (size + 2 * _BORDER - SIDE) // STEP + 1
        one = functional.adaptive_avg_pool1d(torch.eye(places)[None], CELLS)[0].T
        self.register_buffer("cells", torch.kron(one, one))
        crops = torch.stack(_crops(photographs, size, draw))
        found = torch.cat([self._compared(part) for part in crops.split(_AT_ONCE)])
        means = found.mean(dim=(0, 1))
        self.register_buffer("means", _on_grid(means))
        self.register_buffer("whitening", _on_grid(_whitening((found - means).flatten(0, 1), _FEATURE_FLOOR)))

    def forward(self, images: Tensor) -> Tensor:
        """Return features of norm 1, shape (1, cells, 2 PATCHES), of pixels, uint8 of shape (1, 3, size, size)."""
        found = self._compared(images.to(torch.float32) / 255) - self.get_buffer("means")
        found = found @ self.get_buffer("whitening")
        return functional.normalize(found.flatten(1)).reshape(found.shape)

    def _compared(self, images: Tensor) -> Tensor:
        """Return how much patches are alike, averaged over each cell, of shape (n, cells, 2 PATCHES)."""
        padded = functional.pad(images, (_BORDER,) * 4, mode="reflect")
        alike = _even(_patches(padded, STEP)) @ self.get_buffer("filters").to(images.dtype).T
        both = torch.cat([alike - THRESHOLD, -alike - THRESHOLD], dim=2).clamp(min=0)
        return self.get_buffer("cells").to(images.dtype) @ both


def _patches(images: Tensor, step: int) -> Tensor:
    """Return the patches of images, shape (n, places, 3 SIDE SIDE)."""
    return functional.unfold(images, SIDE, stride=step).transpose(1, 2)


def _even(patches: Tensor) -> Tensor:
    """Return patches with mean 0, and with deviation 1 where their contrast is high."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + _CONTRAST).sqrt()


def _whitening(values: Tensor, floor: float) -> Tensor:
    """Return the symmetric matrix that whitens values of mean 0; a part of their mean variance is added to each."""
    variances, directions = torch.linalg.eigh(values.T @ values / len(values))
    scales = (variances + floor * variances.mean()).rsqrt()
    return (directions * scales) @ directions.T


def _on_grid(values: Tensor) -> Tensor:
    """Return values of double precision as rounded ones of single precision.

    The last digits of sums are those of a machine and of its threads. None is left, so that all have one encoder.
    """
    return ((values * 2**12).round() / 2**12).to(torch.float32)


def _photographs() -> list[Tensor]:
    """Return the photographs in several sizes, each of shape (3, height, width), from 0 to 1."""
    whole = [torch.tensor(image).permute(2, 0, 1).double() / 255 for image in load_sample_images().images]
    return [functional.avg_pool2d(image[None], scale)[0] for scale in _SCALES for image in whole]


def _crops(photographs: list[Tensor], size: int, draw: torch.Generator) -> list[Tensor]:
    """Return crops that were drawn at random, each of shape (3, size, size); the photographs are used in turn."""
    found = []
    for number in range(_CROPS):
        photograph = photographs[number % len(photographs)]
        top, left = (int(torch.randint(side - size + 1, (1,), generator=draw)) for side in photograph.shape[1:])
        found.append(photograph[:, top : top + size, left : left + size])
    return found


@cache
def _of_size(size: int) -> PhotographPatches:
    return PhotographPatches(size)


def build(info: DataInfo) -> PhotographPatches:
    """Return the encoder of the images of a data set."""
    if info.kind != "image" or info.shape[0] != 3 or info.shape[1] != info.shape[2] or info.shape[1] < _SMALLEST:
        raise TaskError(
            f"photograph_patches takes square colour images of {_SMALLEST} pixels and more, and this data set is of "
            f'kind "{info.kind}" and shape {info.shape}.'
        )
    return _of_size(info.shape[1])
