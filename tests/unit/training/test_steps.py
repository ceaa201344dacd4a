import subprocess
import sys
from contextlib import suppress
from itertools import chain

import pytest
import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.errors import TaskError
from fedtrain.privacy.noise import SeededSource
from fedtrain.training import PlainTrainer, Records, RoundSettings
from fedtrain.training.steps import LocalOptimizer, fast_layout, shuffled_batches
from tests.unit.training.mechanism import Classification, plan, train_private


def train_plain(net, task, data, config, settings):
    return PlainTrainer(config=config).train(net, task, data, settings)


def mean_loss(net, data):
    return nn.functional.cross_entropy(net(data.features), data.targets)


def records(count=10):
    generator = torch.Generator().manual_seed(0)
    return Records(
        features=torch.randn(count, 4, generator=generator), targets=torch.randint(0, 3, (count,), generator=generator)
    )


def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class functional_statistics(nn.Module):  # noqa: N801 - stands beside layers
    def __init__(self, _features):
        super().__init__()

    def forward(self, outputs):
        return nn.functional.batch_norm(outputs, None, None, training=True)


SETTINGS = RoundSettings(learning_rate=0.1, proximal_mu=0.0, seed=1)


def batches(count, **fields):
    return [batch.tolist() for batch in shuffled_batches(count, Training(**fields), torch.Generator().manual_seed(0))]


def test_a_pass_visits_every_record_once():
    one = batches(10, batch_size=4)
    assert [len(batch) for batch in one] == [4, 4, 2]
    assert sorted(chain.from_iterable(one)) == list(range(10))


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(9, 4, [4, 5]), (5, 4, [5]), (1, 4, [1]), (3, 2, [3]), (3, 1, [1, 1, 1]), (8, 4, [4, 4]), (2, 4, [2])],
)
def test_a_single_record_joins_the_batch_before(count, size, sizes):
    one = batches(count, batch_size=size)
    assert [len(batch) for batch in one] == sizes
    assert sorted(chain.from_iterable(one)) == list(range(count))
    again = batches(count, batch_size=size, local_steps=2 * len(sizes))
    assert [len(batch) for batch in again] == [*sizes, *sizes]


@pytest.mark.parametrize("build", [nn.BatchNorm1d, functional_statistics], ids=["layer", "functional"])
def test_batch_normalisation_trains_where_one_record_is_over(build):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), build(3))
    loss = train_plain(net, Classification(), records(9), Training(batch_size=4), SETTINGS)
    assert loss > 0


def test_passes_are_shuffled_anew():
    two = batches(8, batch_size=4, local_epochs=2.0)
    assert len(two) == 4
    assert list(chain(*two[:2])) != list(chain(*two[2:]))


@pytest.mark.parametrize(
    ("fields", "steps"), [({"local_steps": 7}, 7), ({"local_epochs": 0.5}, 2), ({"local_epochs": 0.01}, 1)]
)
def test_steps_and_fractions_of_a_pass(fields, steps):
    assert len(batches(10, batch_size=3, **fields)) == steps


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_lower_the_loss_and_leave_frozen_weights(name):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    config = Training(optimizer=name, local_epochs=30.0, batch_size=5)
    data = records()
    before = mean_loss(net, data)
    train_plain(net, Classification(), data, config, SETTINGS)
    assert mean_loss(net, data) < before
    assert torch.equal(net[0].weight, frozen)


CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_torchs_to_the_bit(name, decay, dtype):
    config = Training(optimizer=name, weight_decay=decay, momentum=0.9 if name == "sgd" and decay else 0.0)
    nets = [nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).to(dtype) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0][0].bias.requires_grad_(False)
    nets[1][0].bias.requires_grad_(False)
    ours = LocalOptimizer(config, nets[0], 0.05)
    momentum = {"momentum": config.momentum} if name == "sgd" else {}
    theirs = CLASSES[name](
        [each for each in nets[1].parameters() if each.requires_grad], lr=0.05, weight_decay=decay, **momentum
    )
    for step in range(5):
        ours.zero_grad()
        theirs.zero_grad()
        for net in nets:
            # One parameter has no gradient in some of the steps.
            outputs = net[1](net[0](torch.ones(2, 5, dtype=dtype)) if step % 2 else torch.ones(2, 4, dtype=dtype))
            outputs.square().sum().backward()
        ours.step()
        theirs.step()
        for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_sparse_gradient_is_refused_where_torch_refuses_it():
    net = nn.Embedding(4, 3, sparse=True)
    net(torch.tensor([1, 1, 2])).sum().backward()
    with pytest.raises(TaskError, match=r"adamw takes no sparse gradients: .* sparse=False"):
        LocalOptimizer(Training(optimizer="adamw"), net, 0.1).step()
    before = net.weight.detach().clone()
    LocalOptimizer(Training(), net, 0.1).step()
    torch.testing.assert_close(net.weight - before, torch.tensor([[0.0], [-0.2], [-0.1], [0.0]]).expand(4, 3))


IMAGES = {
    "torch's own": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)), True),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten()), False),
    "no convolution": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), False),
    "of somebody's own": (lambda: Viewing(nn.Conv2d(3, 8, 3)), False),
}


class Viewing(nn.Module):
    """Takes for granted that what a convolution returns is contiguous."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return self.layer(images).view(len(images), -1)


@pytest.mark.parametrize("name", IMAGES)
def test_channels_come_last_while_convolutions_train_and_never_after(name):
    make, last = IMAGES[name]
    model = make()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    layouts = []
    with suppress(KeyError), fast_layout(model):
        layouts += [each.weight.is_contiguous() for each in model.modules() if isinstance(each, nn.Conv2d)]
        model(torch.randn(2, 3, 8, 8))
        raise KeyError("planted")
    assert not any(layouts) if last else all(layouts)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert parameter.is_contiguous()
        assert torch.equal(parameter, value)


def test_both_trainers_leave_contiguous_weights():
    task, mechanism = Classification(), plan(noise=1.0)
    data = Records(features=torch.randn(6, 3, 8, 8), targets=torch.zeros(6, dtype=torch.long))
    for train in (
        lambda net: train_plain(net, task, data, Training(), SETTINGS),
        lambda net: train_private(net, task, data, Training(), SETTINGS, mechanism, SeededSource(0)),
    ):
        net = IMAGES["torch's own"][0]()
        before = net[0].weight.detach().clone()
        train(net)
        assert net[0].weight.is_contiguous()
        assert not torch.equal(net[0].weight, before)


def test_a_step_imports_no_compiler():
    code = (
        "import sys, torch; from torch import nn; from fedtrain.config import Training; "
        "from fedtrain.training.steps import LocalOptimizer; import fedtrain.training.private; "
        "net = nn.Linear(2, 2); optimizers = [LocalOptimizer(Training(optimizer=each), net, 0.1) for each in "
        "('sgd', 'adam')]; net(torch.ones(1, 2)).sum().backward(); [each.step() for each in optimizers]; "
        "sys.exit(sum(name in sys.modules for name in ('torch._dynamo', 'opacus')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_seed_gives_the_same_weights():
    nets = []
    for seed in (1, 1, 2):
        net = model()
        train_plain(
            net,
            Classification(),
            records(),
            Training(batch_size=3),
            RoundSettings(learning_rate=0.1, proximal_mu=0.0, seed=seed),
        )
        nets.append(net.weight.detach())
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_the_reported_loss_is_the_mean_over_batches():
    net, data = model(), records(8)
    expected = mean_loss(net, data).item()
    assert train_plain(net, Classification(), data, Training(batch_size=8), SETTINGS) == pytest.approx(expected)


def test_the_proximal_term_is_that_of_fedprox():
    net, data = model(), records(8)
    start = [parameter.detach().clone() for parameter in net.parameters()]
    train_plain(
        net,
        Classification(),
        data,
        Training(batch_size=8, local_steps=2),
        RoundSettings(learning_rate=0.1, proximal_mu=0.5, seed=1),
    )
    reference = model()
    for _ in range(2):
        loss = mean_loss(reference, data)
        loss = loss + 0.25 * sum((p - s).square().sum() for p, s in zip(reference.parameters(), start, strict=True))
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
    torch.testing.assert_close(list(net.parameters()), list(reference.parameters()))
