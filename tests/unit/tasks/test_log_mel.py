import math

import numpy as np
import pytest
import torch

from fedtrain.data import ClassTarget, Columns, DataInfo, Sound
from fedtrain.errors import TaskError
from fedtrain.tasks.log_mel import LogMel, log_mel_of
from tests.sounds import tone

TARGET = ClassTarget(names=("a", "b"))


def by_definition(sound, rate, points):
    """Compute the module's formula term by term, without a fast transform."""
    window, step = round(0.025 * rate), round(0.010 * rate)
    frames = [sound[start : start + window] for start in range(0, len(sound) - window + 1, step)]
    hann = np.array([math.sin(math.pi * place / window) ** 2 for place in range(window)])
    numbers = np.arange(points // 2 + 1)
    waves = np.exp(-2j * np.pi * numbers[:, None] * np.arange(window) / points)
    powers = np.array([np.abs(waves @ (hann * frame)) ** 2 * (2 / hann.sum()) ** 2 for frame in frames])

    def mel(pitch):
        return 2595 * np.log10(1 + pitch / 700)

    corners = np.linspace(0, mel(rate / 2), 42)
    bands = np.zeros((len(frames), 40))
    for band in range(40):
        # Corners are pitches: a triangle is straight over pitches, not over mels.
        low, middle, high = (700 * (10 ** (corners[band + each] / 2595) - 1) for each in range(3))
        for number in numbers:
            pitch = number * rate / points
            if low < pitch <= middle:
                bands[:, band] += powers[:, number] * (pitch - low) / (middle - low)
            elif middle < pitch < high:
                bands[:, band] += powers[:, number] * (high - pitch) / (high - middle)
    return np.log(bands + 1e-6).T


@pytest.mark.parametrize(("rate", "points"), [(8000, 512), (4000, 256), (11_025, 1024)])
def test_it_is_what_the_definition_gives(rate, points):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 1300)
    module = LogMel(rate, len(sound), dtype=torch.float64)
    assert module.points == points
    found = module(torch.from_numpy(sound)[None])[0]
    assert tuple(found.shape) == module.shape
    np.testing.assert_allclose(found.numpy(), by_definition(sound, rate, points), atol=5e-5)


def test_single_precision_is_near():
    sound = torch.from_numpy(np.random.default_rng(1).uniform(-0.5, 0.5, 4000))[None]
    torch.testing.assert_close(
        LogMel(8000, 4000)(sound.float()).double(), LogMel(8000, 4000, dtype=torch.float64)(sound), atol=1e-4, rtol=0
    )


def test_a_sine_of_full_scale_is_loudest_in_its_own_band_with_a_power_near_1():
    time = np.arange(8000) / 8000
    found = LogMel(8000, 8000)(torch.from_numpy(np.sin(2 * np.pi * 1000 * time)).float()[None])[0].mean(dim=1)
    corners = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 4000 / 700), 42) / 2595) - 1)
    assert int(found.argmax()) == int(np.abs(corners[1:-1] - 1000).argmin())
    assert 0.3 < math.exp(float(found.max())) < 3


def test_silence_is_the_floor_and_a_sound_twice_as_loud_is_six_decibels_more():
    silent = LogMel(8000, 4000)(torch.zeros(1, 4000))
    torch.testing.assert_close(silent, torch.full_like(silent, math.log(1e-6)))
    sound = torch.from_numpy(tone(700)).float()[None]
    one, twice = LogMel(8000, 4000)(sound), LogMel(8000, 4000)(2 * sound)
    loud = one > -5
    assert loud.any()
    torch.testing.assert_close((twice - one)[loud], torch.full_like(one[loud], math.log(4)), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (200, 1), (279, 1), (280, 2), (8000, 98)])
def test_there_is_a_window_every_hundredth_of_a_second(samples, frames):
    module = LogMel(8000, samples)
    assert module.shape == (40, frames)
    assert module(torch.zeros(3, samples)).shape == (3, 40, frames)


def test_every_band_holds_a_frequency_at_every_rate_that_is_taken():
    for rate in (4000, 8000, 16_000, 22_050, 44_100, 48_000):
        assert (LogMel(rate, rate).filters.sum(dim=1) > 0.1).all()


def test_what_is_no_sound_or_too_slow_is_refused():
    with pytest.raises(TaskError, match=r'a task takes sounds of 4,000 .*of kind "table"; data.sample_rate'):
        log_mel_of(DataInfo(features=Columns(shape=(3,)), target=TARGET), "a task")
    with pytest.raises(TaskError, match=r'of kind "audio" with 3,999 samples a second'):
        log_mel_of(DataInfo(features=Sound(shape=(3,), rate=3999), target=TARGET), "a task")
    with pytest.raises(ValueError, match="3999 samples a second; 4000 or more"):
        LogMel(3999, 4000)
