"""Ways to print a false epsilon that no other test is about; docs/explanation/false-epsilons.md has them all."""

import dataclasses

import pytest
import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.errors import PrivacySpecError
from fedtrain.privacy import calibrate
from fedtrain.privacy.noise import SeededSource
from fedtrain.training import Records, private
from fedtrain.training.private import with_noise
from tests.unit.training.mechanism import Classification, Counting, change, plan, records

CLIP, DIVISOR = 0.1, 20


@pytest.mark.parametrize("config", [{}, {"physical_batch_size": 3}, {"augmentations": 2}], ids=str)
@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_as_many_noisy_steps_are_taken_as_are_charged(rate, config):
    mechanism, data, source = plan(noise=1.0, rate=rate, steps=7), records(), Counting(SeededSource(1))
    change(data, mechanism, config=Training(**config), source=source)
    charged = mechanism.event(mechanism.spec.steps_per_round)
    # Every record is drawn with the rate that is charged, once a step, also where the batch is empty.
    assert source.masks == [(len(data), charged.sampling_rate)] * charged.steps
    values = sum(value.numel() for value in Classification().model().parameters())
    deviation = charged.noise_multiplier * mechanism.spec.clip_norm
    assert source.noises == [((values,), deviation)] * charged.steps


class Deep(Classification):
    """Nine layers, the gradient of each of which is far above the bound."""

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Linear(4, 4) for _ in range(8)], nn.Linear(4, 3))

    def collate(self, records, generator):
        return {"inputs": 1e6 * records.features, "targets": records.targets}


def test_the_bound_is_on_all_layers_together():
    data = records(1)
    steps = [change(data, plan(clip=CLIP, noise=1e-4), task=Deep(), net=Deep().model()) for data in (data, records(0))]
    moved = float((steps[0] - steps[1]).norm()) * DIVISOR / CLIP
    assert 0.99 < moved <= 1 + 1e-3


class Half(Classification):
    """A model and records in half precision."""

    def __init__(self, dtype):
        self.dtype = dtype

    def collate(self, records, generator):
        return {"inputs": (2 * records.features).to(self.dtype), "targets": records.targets}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_how_many_records_there_are_is_not_in_the_gradient_of_one(dtype, monkeypatch):
    data, sums = records(60), []

    def watching(found, *, std, source):
        sums.append(torch.cat([total.double().flatten() for total in found]))
        return with_noise(found, std=std, source=source)

    monkeypatch.setattr(private, "with_noise", watching)
    for count in (60, 59, 41):
        some = Records(features=data.features[:count], targets=data.targets[:count])
        change(some, plan(clip=CLIP, noise=1.0), task=Half(dtype), net=Classification().model().to(dtype))
    assert float((sums[0] - sums[1]).norm()) / CLIP <= 1 + 1e-5
    assert float((sums[1] - sums[2]).norm()) / CLIP <= 18 + 1e-5


def test_to_replace_a_record_is_not_what_is_claimed():
    data = records()

    def changed(target):
        other = Records(features=data.features.clone(), targets=data.targets.clone())
        other.targets[3] = target
        return change(other, plan(clip=CLIP))

    # Another record in its place moves the sum by more than the bound, up to twice.
    apart = [float((changed(one) - changed(other)).norm()) * DIVISOR / CLIP for one, other in ((0, 1), (0, 2), (1, 2))]
    assert 1.2 < max(apart) <= 2.001
    # So the plan says what is bounded, and none says that it bounds this.
    spec = dataclasses.replace(plan(clip=CLIP).spec, population=40.0, sampling_rate=0.5)
    assert calibrate(dataclasses.replace(spec, epsilon=8.0)).spec.neighbouring == "add or remove one record"
    with pytest.raises(PrivacySpecError, match='"replace one record" does not say what protects one record'):
        calibrate(dataclasses.replace(spec, neighbouring="replace one record"))
