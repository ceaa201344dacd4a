"""Features of short sounds, such as single words: the shape of their log-mel spectrogram, without anything learned.

A word is said slowly or fast, loudly or softly, and not from the first sample on. Noise leaves a private model little
room to learn that none of this matters, so it is taken out by formulas, on each record alone:

1. The sound is divided by its largest sample, and becomes a log-mel spectrogram (`fedtrain.tasks.log_mel`).
2. Of its windows those from the first to the last are kept whose power, summed over the bands, is above a thousandth of
   that of the loudest. They are brought to 24 windows by linear interpolation: the time of the word itself.
3. The cosine transform in both directions (DCT-II) keeps 13 shapes over pitches and 8 over time, as cepstral
   coefficients do (Davis and Mermelstein 1980), and both together what is neither. The mean is left out.
4. Shape (u, v) is multiplied by (1 + u² + v²)^(1/4): slow shapes are strong, and gradients would go along them alone.
5. The features of a record are divided by their norm, or by 1 where that is less, as it is of silence.

How many numbers are kept weighs most, since noise is in each of them.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data.types import DataInfo
from fedtrain.tasks.log_mel import BANDS, LogMel, log_mel_of

PITCHES: Final = 13
"""Shapes over the bands of pitches that are kept."""
TIMES: Final = 8
"""Shapes over time that are kept."""

_WINDOWS = 24
_QUIET = 1e-3
_LEAST = 1e-9


class LogMelEncoder(nn.Module):
    """The features of sounds of one rate and length, each sound of norm 1, or near 0 where it is silent.

    Args:
        log_mel: the spectrogram of such sounds.
    """

    def __init__(self, log_mel: LogMel) -> None:
        super().__init__()
        self.log_mel = log_mel
        weights = (1 + np.arange(PITCHES)[:, None] ** 2 + np.arange(TIMES) ** 2) ** 0.25
        weights[0, 0] = 0
        constants = {"pitches": _cosines(PITCHES, BANDS), "times": _cosines(TIMES, _WINDOWS), "weights": weights}
        for name, values in constants.items():
            self.register_buffer(name, torch.from_numpy(np.round(values * 2**24) / 2**24).to(torch.float32))

    def forward(self, sounds: Tensor) -> Tensor:
        """Return features, float32 of shape (n, 13, 8), of norm 1 but for silence.

        Args:
            sounds: samples, float32 of shape (n, samples).
        """
        found: Tensor = torch.stack([self._features(sound) for sound in sounds])
        return found

    def _features(self, sound: Tensor) -> Tensor:
        spectrogram: Tensor = self.log_mel(sound[None] / sound.abs().max().clamp(min=_LEAST))[0]
        powers = spectrogram.exp().sum(dim=0)
        loud = torch.nonzero(powers > _QUIET * powers.max()).flatten()
        word = spectrogram[:, int(loud[0]) : int(loud[-1]) + 1]
        timed = functional.interpolate(word[None], size=_WINDOWS, mode="linear", align_corners=True)[0]
        waves = self.get_buffer("pitches") @ timed @ self.get_buffer("times").T
        features: Tensor = waves * self.get_buffer("weights")
        scaled: Tensor = features / features.norm().clamp(min=1)
        return scaled


def _cosines(kept: int, values: int) -> NDArray[np.float64]:
    """Return the first rows of the orthonormal cosine transform of so many values, shape (kept, values)."""
    waves = np.cos(math.pi * np.arange(kept)[:, None] * (np.arange(values) + 0.5) / values)
    return np.asarray(waves * np.sqrt(np.where(np.arange(kept) == 0, 1, 2) / values)[:, None])


def log_mel_encoder(info: DataInfo) -> LogMelEncoder:
    """Return the encoder of sounds of a data set.

    Raises:
        TaskError: the records are no sounds, or of too low a rate.
    """
    return LogMelEncoder(log_mel_of(info, 'task.encoder = "log-mel"'))
