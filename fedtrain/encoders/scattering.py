"""Scattering of images: fixed filters and moduli, without anything that was learned.

Sources: Bruna and Mallat 2013, "Invariant Scattering Convolution Networks", for the transform; Oyallon and Mallat 2015,
"Deep Roto-Translation Scattering for Object Classification", for two scales and eight angles on images of 32 pixels.

With Morlet wavelets psi of two scales j and eight angles l, and a Gaussian phi, an image x of one channel has

- one map of order 0: x * phi;
- 16 maps of order 1: abs(x * psi[j1, l1]) * phi;
- 64 maps of order 2: abs(abs(x * psi[0, l1]) * psi[1, l2]) * phi;

each taken at every fourth pixel. The wavelet of angle t = pi l / 8 and scale j is, up to its norm,

    psi(u) = exp(-(a² + b² / 4) / (2 s²)) (exp(i w a) - k),   s = 0.8 · 2^j,   w = 3 pi / 4 / 2^j,

where a is the coordinate of u along the angle, and b the one across; k makes the sum of its values zero. phi is
Gaussian with deviation 1.6 pixels and sum 1. Convolutions are circular, on an image that is continued by reflection: by
4 pixels and more on each side. What scale 1 yields is kept at every second pixel.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError

ANGLES: Final = 8
MAPS: Final = 1 + 2 * ANGLES + ANGLES**2
"""Maps of each channel of an image."""
STEP: Final = 4
"""Pixels from one value of a map to the next."""
SMALLEST: Final = 8
"""The least side of an image: a smaller one cannot be continued by reflection."""

_BORDER = 4
_SLANT = 4 / ANGLES
_PERIODS = range(-2, 3)

# Over noise of 32 by 32 pixels, whose power falls with the square of the frequency, with mean 1/2 and deviation 1/8:
# mean and deviation of the map of order 0, and the means of the square roots of the others, of order 1 by scale, of
# order 2 by the steps between the two angles.
_ORDER_0 = (0.4997, 0.0896)
_ORDER_1 = (0.1259, 0.1231)
_ORDER_2 = np.array([0.04328, 0.04109, 0.03672, 0.03352, 0.03258])


class Scattering(nn.Module):
    """The scattering of images of one size, without parameters.

    Args:
        height: of the images in pixels, 8 or more.
        width: likewise.
        dtype: of the computation.

    Raises:
        ValueError: a side is below 8.
    """

    def __init__(self, height: int, width: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise ValueError(f"images of {height} by {width} pixels; a side is {SMALLEST} or more")
        sides = (height, width)
        self.cells = tuple(math.ceil(side / STEP) for side in sides)
        padded = tuple(STEP * cells + 2 * _BORDER for cells in self.cells)
        bottom, right = (whole - side - _BORDER for whole, side in zip(padded, sides, strict=True))
        self.padding = (_BORDER, right, _BORDER, bottom)
        for scale in (0, 1):
            spectra = np.stack([_spectrum(padded, scale, angle) for angle in range(ANGLES)])
            self.register_buffer(f"wavelets{scale}", torch.from_numpy(spectra).to(dtype))
            for name, whole, cells in zip(("rows", "columns"), padded, self.cells, strict=True):
                self.register_buffer(f"{name}{scale}", torch.from_numpy(_averages(whole, scale, cells)).to(dtype))

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps, shape (n, 81 channels, ceil(height / 4), ceil(width / 4)).

        Args:
            images: shape (n, channels, height, width), of the dtype of the filters. The maps of a channel are
                together, in the order above, j1 before l1 before l2.
        """
        image = functional.pad(images, self.padding, mode="reflect")
        first = torch.fft.fft2(image).unsqueeze(2)
        fine = torch.fft.ifft2(first * self.get_buffer("wavelets0")).abs()
        coarse = torch.fft.ifft2(_every_second(first * self.get_buffer("wavelets1"))).abs()
        second = torch.fft.fft2(fine).unsqueeze(3)
        mixed = torch.fft.ifft2(_every_second(second * self.get_buffer("wavelets1"))).abs().flatten(2, 3)
        maps = (
            self._averaged(image.unsqueeze(2), 0),
            self._averaged(fine, 0),
            self._averaged(coarse, 1),
            self._averaged(mixed, 1),
        )
        return torch.cat(maps, dim=2).flatten(1, 2)

    def _averaged(self, values: Tensor, scale: int) -> Tensor:
        rows, columns = self.get_buffer(f"rows{scale}"), self.get_buffer(f"columns{scale}")
        return rows @ values @ columns.T


def _every_second(spectrum: Tensor) -> Tensor:
    """Return the spectrum of every second value in both directions."""
    height, width = spectrum.shape[-2] // 2, spectrum.shape[-1] // 2
    return spectrum.reshape(*spectrum.shape[:-2], 2, height, 2, width).mean(dim=(-4, -2))


def _spectrum(sides: tuple[int, ...], scale: int, angle: int) -> NDArray[np.float64]:
    """Return the transform of a wavelet that is repeated with the sides: real, since psi(-u) is its conjugate."""
    deviation, frequency = 0.8 * 2**scale, 3 * math.pi / 4 / 2**scale
    cosine, sine = math.cos(math.pi * angle / ANGLES), math.sin(math.pi * angle / ANGLES)
    envelope, wave = np.zeros(sides), np.zeros(sides, complex)
    for down in _PERIODS:
        for across in _PERIODS:
            y = (np.arange(sides[0]) + down * sides[0])[:, None]
            x = np.arange(sides[1]) + across * sides[1]
            along, beside = cosine * x + sine * y, cosine * y - sine * x
            part = np.exp(-(along**2 + (_SLANT * beside) ** 2) / (2 * deviation**2))
            envelope += part
            wave += part * np.exp(1j * frequency * along)
    norm = 2 * math.pi * deviation**2 / _SLANT
    wavelet = (wave - wave.sum() / envelope.sum() * envelope) / norm
    # On a grid, so that the rounding of another machine's transform does not make another encoder.
    return np.round(np.fft.fft2(wavelet).real * 2**24) / 2**24


def _averages(side: int, scale: int, cells: int) -> NDArray[np.float64]:
    """Return the weights of phi, shape (cells, side / 2^scale): a row for each fourth pixel of the image."""
    pixels = np.arange(0, side, 2**scale)
    centres = _BORDER + STEP * np.arange(cells)
    distances = (pixels - centres[:, None])[..., None] + side * np.array(_PERIODS)
    weights = np.exp(-(distances**2) / (2 * 1.6**2)).sum(axis=-1)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


class ScatteringEncoder(nn.Module):
    """The scattering of images of pixels, conditioned by public constants, each image of norm 1.

    Gradients of a linear model go along what most features have in common, and noise is alike in all directions. So the
    features are brought near to what has no preferred direction, in three steps, each a formula on one image:

    1. Maps of orders 1 and 2 are replaced by their square roots, whose spread depends less on the contrast of an image.
    2. The mean of each map over synthetic noise is taken off. The maps of order 0 are divided by their deviation, the
       others by their mean. The noise has a power that falls with the square of the frequency, as that of photographs
       does: it is a formula, and no image was looked at.
    3. Slow changes over a map, which are strong, are weakened: its cosine transform is multiplied by
       (1 + u² + v²)^(1/4), half of what would make such noise white.

    Args:
        height: of the images in pixels.
        width: likewise.

    Raises:
        ValueError: a side is below 8.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.scattering = Scattering(height, width)
        turned = (np.arange(ANGLES) - np.arange(ANGLES)[:, None]) % ANGLES
        between = np.minimum(turned, ANGLES - turned).flatten()
        means = np.concatenate([[_ORDER_0[0]], np.repeat(_ORDER_1, ANGLES), _ORDER_2[between]])
        scales = np.concatenate([[_ORDER_0[1]], means[1:]])
        rows, columns = (_cosines(cells) for cells in self.scattering.cells)
        frequencies = np.arange(len(rows))[:, None] ** 2 + np.arange(len(columns)) ** 2
        constants = {
            "means": means[:, None, None],
            "scales": scales[:, None, None],
            "rows": rows,
            "columns": columns,
            "weights": (1 + frequencies) ** 0.25,
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.from_numpy(np.round(values * 2**24) / 2**24).to(torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """Return features of norm 1, shape (n, 81 channels, ceil(height / 4), ceil(width / 4)).

        Args:
            images: pixels, uint8 of shape (n, channels, height, width).
        """
        maps: Tensor = self.scattering(images.to(torch.float32) / 255)
        maps = maps.reshape(len(maps), -1, MAPS, *maps.shape[2:])
        maps = torch.cat([maps[:, :, :1], maps[:, :, 1:].clamp(min=0).sqrt()], dim=2)
        maps = (maps - self.get_buffer("means")) / self.get_buffer("scales")
        rows, columns = self.get_buffer("rows"), self.get_buffer("columns")
        waves = rows @ maps @ columns.T * self.get_buffer("weights")
        features = (rows.T @ waves @ columns).flatten(1, 2)
        return functional.normalize(features.flatten(1)).reshape(features.shape)


def _cosines(cells: int) -> NDArray[np.float64]:
    """Return the orthonormal cosine transform (DCT-II) of so many values, as a matrix."""
    places = (np.arange(cells) + 0.5) / cells
    waves = np.cos(math.pi * np.arange(cells)[:, None] * places) * math.sqrt(2 / cells)
    waves[0] /= math.sqrt(2)
    return np.asarray(waves)


def scattering_encoder(info: DataInfo) -> ScatteringEncoder:
    """Return the encoder of images of a data set.

    Raises:
        TaskError: the records are no images, or too small.
    """
    if info.kind != "image" or min(info.shape[1:]) < SMALLEST:
        raise TaskError(
            f'task.encoder = "scattering" takes images of {SMALLEST} by {SMALLEST} pixels and more, and this data set '
            f"is of kind {info.kind} and shape {info.shape}; unset it, or write an encoder of your own"
        )
    return ScatteringEncoder(*info.shape[1:])
