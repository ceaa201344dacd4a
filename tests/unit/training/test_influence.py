"""What one record can change in the average of two clients, by plain SGD at rate 1 with the same noise."""

import pytest
import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.training import Records, RoundSettings
from tests.unit.training.mechanism import Classification, change, model, plan, records

CLIP, DIVISOR, RATE = 0.1, 20, 0.5
SETTINGS = RoundSettings(learning_rate=RATE, proximal_mu=0.0, seed=3)
CONFIGS = [Training(), Training(physical_batch_size=3), Training(augmentations=3)]


class Linear(Classification):
    """A loss whose gradient does not depend on the weights, so that every step has its full effect and no more."""

    def losses(self, outputs, batch):
        return (outputs * nn.functional.one_hot(batch["targets"], 3)).sum(1)


def without(data, index):
    kept = torch.arange(len(data)) != index
    return Records(features=data.features[kept], targets=data.targets[kept])


def strange():
    """Records of which the last is far from all others, and so has a long gradient."""
    data = records()
    data.features[-1] = 1000.0
    return data


def influence(mechanism, *, task=None, net=model, config=CONFIGS[0]):
    """Return the distance of the averages of two clients with and without the last record of the first client."""

    def average(first):
        clients = [first, records(15)]
        return sum(change(data, mechanism, SETTINGS, task=task, net=net(), config=config) for data in clients) / 2

    data = strange()
    return float((average(data) - average(without(data, len(data) - 1))).norm())


@pytest.mark.parametrize("config", CONFIGS, ids=["whole", "chunks", "views"])
def test_one_step_is_within_the_bound_and_reaches_it(config):
    bound = RATE * CLIP / DIVISOR / 2
    assert 0.99 * bound < influence(plan(clip=CLIP, batch=DIVISOR, noise=1.0), config=config) <= 1.001 * bound


@pytest.mark.parametrize("steps", [2, 5])
def test_several_steps_are_within_the_sum_of_their_bounds(steps):
    mechanism = plan(clip=CLIP, batch=DIVISOR, noise=1.0, steps=steps)
    bound = steps * RATE * CLIP / DIVISOR / 2
    assert 0.99 * bound < influence(mechanism, task=Linear(), net=lambda: nn.Linear(4, 3)) <= 1.001 * bound


@pytest.mark.parametrize(("steps", "task"), [(1, Classification()), (5, Linear())])
def test_a_record_that_is_not_clipped_exceeds_it(steps, task):
    # A clipping norm that no gradient reaches is no clipping; the noise is as it was.
    mechanism = plan(clip=1e6, noise=1.0 * CLIP / 1e6, batch=DIVISOR, steps=steps)
    assert influence(mechanism, task=task, net=lambda: nn.Linear(4, 3)) > 10 * steps * RATE * CLIP / DIVISOR / 2
