"""The log-mel spectrogram of a sound: how much power each band of pitches has over time, in logarithms.

It is a formula. Nothing of it was learned, and each record is computed alone.

A sound x of r samples a second is cut into windows of 25 ms, one every 10 ms, each times a Hann window w. With the
transform X of N points of a window, where N is the least power of two with r / N at most 16 Hz,

    p[k] = (2 / sum of w)² abs(X[k])²,        m[j] = sum over k of F[j, k] p[k],        y[j] = log(m[j] + 1e-6).

So a sine of full scale has a power near 1. The 40 filters F are triangles over the frequencies f of the transform,
whose corners are equally far from each other on the mel scale 2595 log10(1 + f / 700), from 0 to r / 2 (O'Shaughnessy
1987, "Speech Communication"; the features are those of Davis and Mermelstein 1980, "Comparison of Parametric
Representations for Monosyllabic Word Recognition", before their cosine transform).
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

BANDS: Final = 40
"""Bands of pitches."""
FLOOR: Final = 1e-6
"""What is added to a power before its logarithm: 60 dB below full scale."""
SLOWEST: Final = 4000
"""The least samples a second: of fewer, the lowest bands hold no frequency of the transform."""

_WINDOW, _STEP, _FINEST = 0.025, 0.010, 16


class LogMel(nn.Module):
    """The log-mel spectrogram of sounds of one rate and length, without parameters.

    Args:
        rate: samples a second, 4,000 or more.
        samples: of a sound. One that is shorter than a window is padded with zeros to one.

    Raises:
        ValueError: the rate is below 4,000.
    """

    def __init__(self, rate: int, samples: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if rate < SLOWEST:
            raise ValueError(f"sounds of {rate} samples a second; {SLOWEST} or more are needed")
        self.window, self.step = round(_WINDOW * rate), round(_STEP * rate)
        self.points = 1 << max(0, math.ceil(math.log2(rate / _FINEST)))
        self.missing = max(0, self.window - samples)
        self.frames = 1 + (max(samples, self.window) - self.window) // self.step
        hann = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(self.window) / self.window)
        for name, values in (("hann", 2 * hann / hann.sum()), ("filters", _filters(rate, self.points))):
            # On a grid, so that the rounding of another machine's functions does not make another encoder.
            self.register_buffer(name, torch.from_numpy(np.round(values * 2**24) / 2**24).to(dtype))

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and windows of a sound."""
        return BANDS, self.frames

    def forward(self, sounds: Tensor) -> Tensor:
        """Return logarithms of powers, shape (n, 40, frames), of samples (n, samples)."""
        windows = functional.pad(sounds, (0, self.missing)).unfold(1, self.window, self.step)
        spectrum = torch.fft.rfft(windows * self.get_buffer("hann"), self.points)
        powers = spectrum.real.square() + spectrum.imag.square()
        found: Tensor = (powers @ self.get_buffer("filters").T + FLOOR).log().mT
        return found


def _filters(rate: int, points: int) -> NDArray[np.float64]:
    """Return the weights of frequencies in bands, shape (40, points / 2 + 1)."""
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    frequencies = np.arange(points // 2 + 1) * rate / points
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.asarray(np.minimum(rising, falling).clip(min=0))


def log_mel_of(info: DataInfo, what: str) -> LogMel:
    """Return the spectrogram of the sounds of a data set.

    Args:
        info: the data set.
        what: what takes sounds, for an error.

    Raises:
        TaskError: the records are no sounds, or of too low a rate.
    """
    if info.rate is None or info.rate < SLOWEST:
        rate = "" if info.rate is None else f" with {info.rate:,} samples a second"
        raise TaskError(
            f"{what} takes sounds of {SLOWEST:,} samples a second and more, and this data set is of kind "
            f'"{info.kind}"{rate}; data.sample_rate and data.seconds make records sounds'
        )
    return LogMel(info.rate, info.shape[0])
