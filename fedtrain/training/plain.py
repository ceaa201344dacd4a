"""The local step without privacy."""

from dataclasses import dataclass

import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Records, Task
from fedtrain.tasks.calls import collate, forward, losses, to_device
from fedtrain.training.steps import RoundSettings, add_proximal_gradient, make_optimizer, shuffled_batches


@dataclass(frozen=True, kw_only=True)
class PlainTrainer:
    """Steps on the mean loss of shuffled batches: the `Trainer` without privacy of records."""

    config: Training

    def train(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> float:
        """Train the model in place on the records and return the mean loss over the batches."""
        device = next(model.parameters()).device
        model.train()
        optimizer = make_optimizer(self.config, model, settings.learning_rate)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
        order = seeded_generator(settings.seed, "batches")
        augmentation = seeded_generator(settings.seed, "augmentation")
        means = []
        for rows in shuffled_batches(len(records), self.config, order):
            batch = to_device(collate(task, records.take(rows), augmentation), device)
            loss = losses(task, forward(task, model, batch), batch).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if anchors:
                add_proximal_gradient(parameters, anchors, settings.proximal_mu)
            optimizer.step()
            means.append(loss.detach())
        return float(sum(means)) / len(means)
