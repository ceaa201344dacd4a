"""What the tests of private training share."""

import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.privacy import PrivacyPlan, PrivacySpec
from fedtrain.privacy.noise import SeededSource
from fedtrain.tasks import ClassificationMetrics, Task
from fedtrain.training import Records, RoundSettings
from fedtrain.training.preflight import PreflightResult
from fedtrain.training.private import PrivateTrainer


class Classification(Task):
    """Trains what it is given on the features as they are."""

    def model(self):
        return model()

    def collate(self, records, generator):
        return {"inputs": records.features, "targets": records.targets}

    def losses(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(3)


BOOKS = PreflightResult(way="book-keeping")


def train_private(net, task, data, config, settings, mechanism, source, preflight=BOOKS):
    PrivateTrainer(config=config, plan=mechanism, source=source, preflight=preflight).train(net, task, data, settings)


SETTINGS = RoundSettings(learning_rate=1.0, proximal_mu=0.0, seed=5)
PLAIN = Training(learning_rate=1.0)


def plan(*, noise=1e-5, rate=1.0, batch=20, steps=1, clip=0.1):
    # Made by hand, which only a test may do: it needs noise that no budget allows.
    spec = PrivacySpec(
        unit="record",
        neighbouring="add or remove one record",
        epsilon=1.0,
        delta=1e-5,
        clip_norm=clip,
        sampling_rate=rate,
        divisor=batch,
        population=batch / rate,
        steps_per_round=steps,
        rounds=1,
    )
    return PrivacyPlan(spec=spec, noise_multiplier=noise)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def records(count=20):
    generator = torch.Generator().manual_seed(0)
    return Records(
        features=torch.randn(count, 4, generator=generator), targets=torch.randint(0, 3, (count,), generator=generator)
    )


def flat(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def change(data, mechanism, settings=SETTINGS, *, task=None, config=PLAIN, source=None, net=None, preflight=BOOKS):
    """Return by how much a round changes the weights."""
    net = net or model()
    before = flat(net)
    train_private(
        net,
        task or Classification(),
        data,
        config,
        settings,
        mechanism,
        source or SeededSource(settings.seed),
        preflight,
    )
    return flat(net) - before


def clipped_sum(data, clip, *, views=1, encode=lambda features, view: features):
    """Return the sum of the clipped gradients of single records, by a plain loop."""
    net, total = model(), None
    for index in range(len(data)):
        net.zero_grad()
        one = slice(index, index + 1)
        for view in range(views):
            (nn.functional.cross_entropy(net(encode(data.features[one], view)), data.targets[one]) / views).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])
        gradient = gradient * min(1.0, clip / float(gradient.norm()))
        total = gradient if total is None else total + gradient
    return total


class Counting:
    """Draws as the source that it is given, and counts."""

    name = "seeded"

    def __init__(self, source):
        self.source, self.noises, self.masks = source, [], []

    def gaussian(self, shape, *, std, device, dtype=torch.float32):
        self.noises.append((tuple(shape), std))
        return self.source.gaussian(shape, std=std, device=device, dtype=dtype)

    def bernoulli(self, count, probability):
        self.masks.append((count, probability))
        return self.source.bernoulli(count, probability)
