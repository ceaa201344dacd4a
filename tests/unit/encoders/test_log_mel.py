import numpy as np
import pytest
import scipy.fft
import torch

from fedtrain.config.sections import TaskConfig
from fedtrain.data import ClassTarget, Columns, DataInfo, Sound
from fedtrain.encoders import open_encoder
from fedtrain.encoders.log_mel import LogMelEncoder, log_mel_encoder
from fedtrain.errors import TaskError
from fedtrain.tasks.log_mel import LogMel
from tests.sounds import tone

INFO = DataInfo(features=Sound(shape=(8000,), rate=8000), target=ClassTarget(names=("a", "b")))


def said(*pitches, seconds=0.2, before=0, loud=0.5):
    """Return tones one after another, after a silence of so many samples."""
    sound = np.zeros(8000, np.float32)
    tones = np.concatenate([tone(pitch, seconds, loud=loud) for pitch in pitches])
    sound[before : before + len(tones)] = tones
    return sound


def features(sound):
    return log_mel_encoder(INFO)(torch.from_numpy(sound)[None])[0].numpy()


def by_definition(sound):
    """Compute the features step by step, by NumPy and SciPy."""
    logarithms = LogMel(8000, 8000, dtype=torch.float64)(torch.from_numpy(sound / np.abs(sound).max())[None].double())
    powers = np.exp(logarithms[0].numpy()).sum(axis=0)
    loud = [window for window, power in enumerate(powers) if power > powers.max() / 1000]
    word = logarithms[0].numpy()[:, loud[0] : loud[-1] + 1]
    places = np.linspace(0, word.shape[1] - 1, 24)
    timed = np.array([np.interp(places, np.arange(word.shape[1]), band) for band in word])
    waves = scipy.fft.dctn(timed, norm="ortho")[:13, :8]
    u, v = np.mgrid[:13, :8]
    waves = waves * (1 + u**2 + v**2) ** 0.25
    waves[0, 0] = 0
    return waves / np.linalg.norm(waves)


@pytest.mark.parametrize("sound", [said(400, 900), said(300, 500, 800, before=1234), said(600, seconds=0.9)])
def test_features_are_what_the_definition_gives(sound):
    found = features(sound)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(sound), atol=2e-5)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_neither_the_gain_nor_silence_before_and_after_changes_the_features():
    one = features(said(400, 900))
    np.testing.assert_allclose(features(0.01 * said(400, 900)), one, atol=1e-4)
    # By whole windows.
    np.testing.assert_allclose(features(said(400, 900, before=1600)), one, atol=1e-4)


def test_a_word_that_is_said_slowly_is_nearer_to_itself_than_another_word():
    word, slower, other = features(said(400, 900)), features(said(400, 900, seconds=0.35)), features(said(900, 400))
    assert (word * slower).sum() > 0.9
    assert (word * other).sum() < 0.5


@pytest.mark.parametrize("samples", [1, 150, 200, 8000])
def test_silence_and_the_shortest_sounds_have_finite_features(samples):
    encoder = LogMelEncoder(LogMel(8000, samples))
    torch.testing.assert_close(encoder(torch.zeros(1, samples)), torch.zeros(1, 13, 8), atol=1e-4, rtol=0)
    pulse = torch.zeros(1, samples)
    pulse[0, samples // 2] = 1
    assert torch.isfinite(encoder(pulse)).all()


def test_each_sound_has_the_same_bits_alone_and_among_others():
    sounds = torch.from_numpy(np.stack([said(400, 900), said(300), said(800, 500, before=900)]))
    encoder = log_mel_encoder(INFO)
    together = encoder(sounds)
    for row in range(3):
        assert torch.equal(encoder(sounds[row : row + 1])[0], together[row])


def test_the_encoder_has_the_same_digest_at_every_call_and_another_for_another_rate():
    config = TaskConfig(name="speech", encoder="log-mel")
    one, again = open_encoder(config, INFO), open_encoder(config, INFO)
    other = open_encoder(config, DataInfo(features=Sound(shape=(8000,), rate=16_000), target=INFO.target))
    assert one.digest == again.digest
    assert one.digest != other.digest
    assert one.info.shape == (13, 8)
    assert one.origin == "no records at all: filters and constants are formulas"


def test_what_is_no_sound_is_refused():
    with pytest.raises(TaskError, match=r'task.encoder = "log-mel" takes sounds of 4,000 samples a second'):
        log_mel_encoder(DataInfo(features=Columns(shape=(3,)), target=INFO.target))
