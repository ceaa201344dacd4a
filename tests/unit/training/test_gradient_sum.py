"""The sum of clipped gradients that a client rounds, and adds its share of the noise to."""

import copy

import pytest
import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.errors import TaskError
from fedtrain.privacy.noise import SeededSource
from fedtrain.privacy.shares import clip_norm_of
from fedtrain.tasks import names_of
from fedtrain.training import Records
from fedtrain.training.preflight import PreflightResult
from fedtrain.training.private import PrivateTrainer
from tests.unit.training.mechanism import BOOKS, PLAIN, SETTINGS, Classification, clipped_sum, model, plan, records


def summed(data, *, mechanism=None, net=None, task=None, clip=0.1, config=PLAIN, preflight=BOOKS, **given):
    trainer = PrivateTrainer(config=config, plan=mechanism or plan(), source=SeededSource(5), preflight=preflight)
    net = net or model()
    return trainer.gradient_sum(net, task or Classification(), data, SETTINGS, clip_norm=clip, **given)


def flat(sums):
    return torch.cat([total.flatten() for total in sums.values()])


def test_it_is_the_sum_of_clipped_gradients_without_noise_and_the_model_stays():
    data, net = records(), model()
    before = copy.deepcopy(net.state_dict())
    sums, checked = summed(data, net=net, mechanism=plan(noise=50.0))
    assert checked
    assert all(total.dtype == torch.float64 for total in sums.values())
    torch.testing.assert_close(flat(sums), clipped_sum(data, 0.1).double(), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert list(sums) == list(before)


def test_weights_of_two_names_are_summed_under_the_first():
    class Tied(Classification):
        def model(self):
            net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
            net[2].weight = net[0].weight
            return net

    net = Tied().model()
    sums, _ = summed(records(), net=net, task=Tied(), preflight=PreflightResult(way="loop"))
    assert set(sums) == set(names_of(net).values()) == {"0.weight", "0.bias", "2.bias", "3.weight", "3.bias"}


def test_chunks_change_nothing_but_rounding():
    data = records()
    whole, _ = summed(data)
    parts, _ = summed(data, config=Training(learning_rate=1.0, physical_batch_size=3))
    torch.testing.assert_close(flat(whole), flat(parts), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("together", [None, 1])
def test_an_empty_batch_is_a_sum_of_zeros_and_nothing_was_checked(together):
    config = Training(learning_rate=1.0, physical_batch_size=together)
    sums, checked = summed(records(), mechanism=plan(rate=1e-12), config=config)
    assert not checked
    assert not flat(sums).any()


class Coupled(Classification):
    def losses(self, outputs, batch):
        return super().losses(outputs, batch) + outputs.mean()


def test_what_mixes_records_is_refused_in_a_step_that_is_checked():
    with pytest.raises(TaskError, match="another value than for the record alone"):
        summed(records(), task=Coupled())
    sums, checked = summed(records(), task=Coupled(), checked=True)
    assert checked
    assert flat(sums).any()


@pytest.mark.parametrize("count", [64, 20_000])
@pytest.mark.parametrize("way", ["book-keeping", "vmap"])
def test_the_rounding_of_floats_is_far_below_what_clipping_leaves_for_it(count, way):
    """With a record more the sum moves by its clipped gradient, and by a hundredth of the margin at most besides.

    The gradients point the same way. In single precision a sum of 20,000 of them is off by more than the margin.
    """
    drawn = records(count)
    data = Records(features=drawn.features.abs() + 0.5, targets=torch.zeros_like(drawn.targets))
    fewer = data.take(torch.arange(1, count))
    given = {"clip": clip_norm_of(0.1), "preflight": PreflightResult(way=way), "checked": True}
    one, other = (flat(summed(each, mechanism=plan(), **given)[0]) for each in (data, fewer))
    alone = flat(summed(data.take(torch.arange(1)), mechanism=plan(), **given)[0])
    assert float(one.norm()) > 0.09 * count
    assert float((one - other).norm()) <= 0.1
    assert float((one - other - alone).norm()) <= 0.1 / 1024 / 100


def test_an_honest_sum_of_thousands_of_records_that_point_the_same_way_passes_the_check():
    """What it is compared with is added up in double precision too: in single precision it is what is off."""
    count = 20_000
    drawn = records(count)
    data = Records(features=drawn.features.abs() + 0.5, targets=torch.zeros_like(drawn.targets))
    _, checked = summed(data, mechanism=plan(batch=count))
    assert checked
