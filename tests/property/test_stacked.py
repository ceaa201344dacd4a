"""Whatever records clients have, one that trains beside others gets what it gets alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedtrain.config import Training
from fedtrain.tasks import ClassificationMetrics, Records, Task
from fedtrain.training import PlainTrainer, RoundSettings
from fedtrain.training.stacked import Part, Room, StackedTrainer


class Rows(Task):
    """Classifies rows of double precision, each moved by a draw of its own."""

    def model(self):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def collate(self, records, generator):
        moved = records.features + 0.1 * torch.randn(records.features.shape, generator=generator).double()
        return {"inputs": moved, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(2)


def part(model, count, seed, mu):
    draw = torch.Generator().manual_seed(seed)
    records = Records(
        features=torch.randn(count, 3, generator=draw).double(), targets=torch.randint(2, (count,), generator=draw)
    )
    own = copy.deepcopy(model)
    with torch.no_grad():
        for value in own.parameters():  # also of those that a client keeps to itself
            value.add_(0.1 * torch.randn(value.shape, generator=draw).double())
    return Part(model=own, records=records, settings=RoundSettings(learning_rate=0.1, proximal_mu=mu, seed=seed))


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(1, 14), min_size=1, max_size=9),
    batch=st.integers(1, 6),
    length=st.sampled_from([{"local_epochs": 0.4}, {"local_epochs": 1.5}, {"local_steps": 1}, {"local_steps": 5}]),
    optimizer=st.sampled_from([{"momentum": 0.5, "weight_decay": 0.01}, {"optimizer": "adam"}]),
    mu=st.sampled_from([0.0, 0.3]),
    fewest=st.integers(2, 5),
    most=st.sampled_from([None, 1, 3]),
)
def test_a_client_gets_what_it_gets_alone(counts, batch, length, optimizer, mu, fewest, most):
    task, config = Rows(), Training(batch_size=batch, **length, **optimizer)
    torch.manual_seed(1)
    model = task.model()
    parts = [part(model, count, seed, mu) for seed, count in enumerate(counts)]
    alone = copy.deepcopy(parts)
    trainer = PlainTrainer(config=config)
    losses = [trainer.train(each.model, task, each.records, each.settings) for each in alone]
    stacked = StackedTrainer(config=config, fewest=fewest, room=Room(most=most))
    assert stacked.train_many(task, parts) == pytest.approx(losses, rel=1e-9)
    for one, other in zip(parts, alone, strict=True):
        torch.testing.assert_close([*one.model.parameters()], [*other.model.parameters()], rtol=1e-6, atol=1e-9)
