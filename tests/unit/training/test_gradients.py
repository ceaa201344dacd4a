"""The gradients of single records, against a loop of plain autograd and against Opacus alone."""

import warnings

import pytest
import torch
from opacus import GradSampleModule
from torch import nn

from fedtrain.config import Training
from fedtrain.privacy.noise import SeededSource
from fedtrain.tasks.models import ARCHITECTURES
from fedtrain.training import Records
from tests.unit.training.mechanism import SETTINGS, Classification, plan, train_private

SHAPE, CLASSES, COUNT = (1, 8, 8), 3, 6


def built(name):
    torch.manual_seed(0)
    return ARCHITECTURES[name].build(SHAPE, CLASSES)


def records():
    generator = torch.Generator().manual_seed(1)
    return Records(
        features=torch.randn(COUNT, *SHAPE, generator=generator),
        targets=torch.randint(0, CLASSES, (COUNT,), generator=generator),
    )


class Watching:
    """Keeps the gradients of single records as they are when the first noise of a step is drawn."""

    name = "seeded"

    def __init__(self, net):
        self.net, self.source, self.gradients = net, SeededSource(0), []

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        if not self.gradients:
            self.gradients = [parameter.grad_sample.clone() for parameter in self.net.parameters()]
        return self.source.gaussian(shape, std=std, device=device, dtype=dtype)

    def bernoulli(self, count, probability):
        return self.source.bernoulli(count, probability)


def by_training(name, views=1):
    net = built(name)
    source = Watching(net)
    config = Training(augmentations=views)
    train_private(net, Classification(), records(), config, SETTINGS, plan(noise=1.0), source)
    return source.gradients


def by_loop(name):
    net, data = built(name), records()
    rows = []
    for index in range(COUNT):
        one = slice(index, index + 1)
        loss = nn.functional.cross_entropy(net(data.features[one]), data.targets[one])
        rows.append(torch.autograd.grad(loss, list(net.parameters())))
    return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]


def by_opacus(name):
    net, data = GradSampleModule(built(name)), records()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        nn.functional.cross_entropy(net(data.features), data.targets).backward()
    return [parameter.grad_sample for parameter in net.parameters()]


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", ["linear", "mlp", "cnn-small"])
def test_they_are_those_of_a_loop_and_of_opacus(name, views):
    trained = by_training(name, views)
    torch.testing.assert_close(trained, by_loop(name), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(trained, by_opacus(name), rtol=1e-4, atol=1e-6)


def test_gradients_of_another_record_would_be_seen():
    trained = by_training("mlp")
    swapped = [gradient.flip(0) for gradient in by_loop("mlp")]
    assert not any(torch.allclose(a, b, rtol=1e-2) for a, b in zip(trained, swapped, strict=True))
