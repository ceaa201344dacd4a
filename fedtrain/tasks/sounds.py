"""From the samples of sounds to what a model takes: log-mel spectrograms, and the augmentation before them.

Each record is computed alone, in a loop: a batch would round otherwise with its size, and one record would move others.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from fedtrain.data.types import DataInfo
from fedtrain.tasks.log_mel import log_mel_of

_CENTRE, _SCALE = -7.0, 4.0
"""Half of the range of logarithms of powers, from that of the floor to 0, and a quarter of it."""

SHIFT: Final = 0.1
"""How far a sound is moved at most, either way, as a part of its length."""
GAIN: Final = 6.0
"""Decibels by which it is made louder or softer at most."""
QUIETEST: Final = 40.0
LOUDEST: Final = 20.0
"""Decibels by which the noise that is added is below the sound: at most and at least."""


class Spectrograms:
    """Log-mel spectrograms of sounds, standardised by public constants.

    Args:
        info: the data set.
        augment: whether sounds are augmented while they are for training.

    Raises:
        TaskError: the records are no sounds, or of too low a rate.
    """

    def __init__(self, info: DataInfo, *, augment: bool) -> None:
        self._log_mel = log_mel_of(info, "a built-in task")
        self._augment = augment

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, bands, windows)."""
        return 1, *self._log_mel.shape

    def __call__(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return inputs, float32 of shape (n, 1, bands, windows), of samples, float32 of shape (n, samples)."""
        if self._augment and generator is not None:
            features = augment_sounds(features, generator)
        module = self._log_mel.to(features.device)
        found = torch.cat([module(sound[None]) for sound in features])
        return ((found - _CENTRE) / _SCALE).unsqueeze(1)


def augment_sounds(sounds: Tensor, generator: torch.Generator) -> Tensor:
    """Move each sound in time, change its gain, and add noise, at random.

    A sound is moved by up to a tenth of its length, with silence in the place that becomes free. Its gain changes by up
    to 6 dB either way. White noise is added, 20 to 40 dB below the sound's own power. The draws come from the generator
    alone, and are the same for the same state of it, wherever the sounds are.

    Args:
        sounds: samples, shape (n, samples).
        generator: of the draws.

    Returns:
        The same shape and dtype. Samples may be beyond full scale.
    """
    count, samples = sounds.shape
    device = generator.device
    most = int(SHIFT * samples)
    shifts = torch.randint(2 * most + 1, (count,), generator=generator, device=device) - most
    gains, distances = torch.rand((2, count), generator=generator, device=device)
    gains = 10 ** ((2 * gains - 1) * GAIN / 20)
    levels = 10 ** -((LOUDEST + distances * (QUIETEST - LOUDEST)) / 20)
    noise = torch.randn((count, samples), generator=generator, device=device).to(sounds)
    drawn = zip(sounds, shifts.tolist(), gains.tolist(), levels.tolist(), noise, strict=True)
    return torch.stack([_augmented(*one) for one in drawn])


def _augmented(sound: Tensor, shift: int, gain: float, level: float, noise: Tensor) -> Tensor:
    power = sound.square().mean().sqrt()
    kept = sound[max(0, -shift) : len(sound) - max(0, shift)]
    moved = functional.pad(kept, (max(0, shift), max(0, -shift)))
    return gain * (moved + level * power * noise)
