import pytest
import torch

from fedtrain.config import TaskConfig
from fedtrain.data import ClassTarget, Columns, DataInfo, Sound
from fedtrain.errors import TaskError
from fedtrain.tasks import Records, build_task
from fedtrain.tasks.log_mel import LogMel
from fedtrain.tasks.sounds import augment_sounds
from tests.sounds import tone

INFO = DataInfo(features=Sound(shape=(4000,), rate=8000), target=ClassTarget(names=("a", "b")))
SOUNDS = torch.stack([torch.from_numpy(tone(200 + 100 * row)).float() for row in range(5)])


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def collated(augment, generator, sounds=SOUNDS):
    task = build_task(TaskConfig(name="speech", augment=augment), INFO)
    return task.collate(Records(features=sounds, targets=torch.zeros(len(sounds), dtype=torch.int64)), generator)


def test_inputs_are_standardised_spectrograms():
    inputs = collated(augment=False, generator=draws())["inputs"]
    assert inputs.shape == (5, 1, 40, 48)
    torch.testing.assert_close(inputs[:, 0], (LogMel(8000, 4000)(SOUNDS) + 7) / 4, atol=1e-4, rtol=1e-4)
    assert inputs.abs().max() < 3


def test_each_record_has_the_same_bits_alone_and_in_any_batch():
    together = collated(augment=False, generator=None)["inputs"]
    for row in range(5):
        assert torch.equal(
            collated(augment=False, generator=None, sounds=SOUNDS[row : row + 1])["inputs"][0], together[row]
        )


def test_only_training_is_augmented_and_only_where_that_is_asked_for():
    plain = collated(augment=False, generator=None)["inputs"]
    assert torch.equal(collated(augment=False, generator=draws())["inputs"], plain)
    assert torch.equal(collated(augment=True, generator=None)["inputs"], plain)
    assert not torch.equal(collated(augment=True, generator=draws())["inputs"], plain)


def test_augmentation_moves_changes_the_gain_and_adds_noise_within_its_bounds():
    pulse = torch.zeros(400, 1000)
    pulse[:, 500] = 0.5
    found = augment_sounds(pulse, draws())
    places, sizes = found.abs().argmax(dim=1), found.abs().amax(dim=1)
    assert places.min() >= 400
    assert places.max() <= 600
    assert len(places.unique()) > 100
    gains = sizes / 0.5
    assert gains.min() > 10 ** (-6.5 / 20)
    assert gains.max() < 10 ** (6.5 / 20)
    assert gains.std() > 0.2
    # The noise is 20 to 40 dB below the pulse's own power, gain included.
    found[torch.arange(400), places] = 0
    below = -20 * torch.log10(found.std(dim=1) / gains / (0.5 / 1000**0.5))
    assert below.min() > 19
    assert below.max() < 41
    assert below.std() > 3


def test_what_leaves_one_end_does_not_come_back_at_the_other():
    ramp = torch.ones(200, 100)
    found = augment_sounds(ramp, draws(1))
    # Noise is at most a tenth, and gains are at least a half: what is silent is told apart.
    silent = (found.abs() < 0.3).sum(dim=1)
    assert silent.max() == 10
    assert silent.min() == 0


def test_records_are_augmented_by_their_own_power_alone():
    louder = SOUNDS.clone()
    louder[0] *= 100
    one, other = augment_sounds(SOUNDS, draws()), augment_sounds(louder, draws())
    assert torch.equal(one[1:], other[1:])
    assert not torch.equal(one[0], other[0])


def test_silence_stays_silence():
    assert torch.equal(augment_sounds(torch.zeros(3, 100), draws()), torch.zeros(3, 100))


def test_a_task_of_sounds_refuses_other_records():
    with pytest.raises(TaskError, match=r'takes data of kind "audio" .*set task.name = "tabular"'):
        build_task(TaskConfig(name="speech"), DataInfo(features=Columns(shape=(3,)), target=INFO.target))
    with pytest.raises(TaskError, match=r'set task.name = "speech"'):
        build_task(TaskConfig(name="vision"), INFO)
    with pytest.raises(TaskError, match=r"4,000 samples a second and more, .* with 2,000 samples a second"):
        build_task(TaskConfig(name="speech"), DataInfo(features=Sound(shape=(3,), rate=2000), target=INFO.target))
