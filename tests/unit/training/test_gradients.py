"""The gradients of single records by the ways that watch layers, against a loop of plain autograd."""

import pytest
import torch
from torch import nn

from fedtrain.tasks.calls import collate
from fedtrain.tasks.models import ARCHITECTURES
from fedtrain.training import Records
from fedtrain.training.contributions import norms_of
from fedtrain.training.gradients import collate_views
from fedtrain.training.preflight import WATCHING
from tests.unit.training.mechanism import Classification

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


def by(way, name, views=1):
    net, task = built(name), Classification()
    with WATCHING[way](net) as run:
        _, found = run(task, collate_views(task, records(), None, views))
        return found.averaged(views).rows(slice(None))


def by_loop(name):
    net, data = built(name), records()
    rows = []
    for index in range(COUNT):
        one = slice(index, index + 1)
        loss = nn.functional.cross_entropy(net(data.features[one]), data.targets[one])
        rows.append(torch.autograd.grad(loss, list(net.parameters())))
    return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", ["linear", "mlp", "cnn-small", "resnet-gn"])
@pytest.mark.parametrize("way", WATCHING)
def test_they_are_those_of_a_loop(way, name, views):
    torch.testing.assert_close(by(way, name, views), by_loop(name), rtol=1e-3, atol=1e-5)


def test_gradients_of_another_record_would_be_seen():
    found = by("book-keeping", "mlp")
    swapped = [gradient.flip(0) for gradient in by_loop("mlp")]
    assert not any(torch.allclose(a, b, rtol=1e-2) for a, b in zip(found, swapped, strict=True))


@pytest.mark.parametrize("way", WATCHING)
def test_autograds_own_gradient_is_there_if_it_is_asked_for(way):
    net, task = built("cnn-small"), Classification()
    with WATCHING[way](net) as run:
        _, found = run(task, collate(task, records(), None), own=True)
        sums = found.totals(torch.ones(COUNT))
        torch.testing.assert_close(list(run.own), sums, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("numbers", [0, 1, 8192, 8193, 1_000_000])
def test_the_norm_of_many_numbers_is_not_too_small(numbers):
    gradients = torch.rand(3, numbers, generator=torch.Generator().manual_seed(0)) - 0.5
    right = gradients.double().square().sum(dim=1).sqrt()
    torch.testing.assert_close(norms_of(gradients), right, rtol=3e-7, atol=0)
