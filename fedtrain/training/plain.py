"""The local step without privacy."""

import torch
from torch import nn

from fedtrain.config import Training
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Task
from fedtrain.training.steps import Records, RoundSettings, add_proximal_gradient, make_optimizer, shuffled_batches


def train_plain(model: nn.Module, task: Task, records: Records, config: Training, settings: RoundSettings) -> float:
    """Train the model in place on the records and return the mean loss over the batches."""
    device = next(model.parameters()).device
    model.train()
    optimizer = make_optimizer(config, model, settings.learning_rate)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
    order = seeded_generator(settings.seed, "batches")
    augmentation = seeded_generator(settings.seed, "augmentation")
    losses = []
    for batch in shuffled_batches(len(records), config, order):
        features = task.encode(records.features[batch], augmentation).to(device)
        loss = task.loss(model(features), records.labels[batch].to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if anchors:
            add_proximal_gradient(parameters, anchors, settings.proximal_mu)
        optimizer.step()
        losses.append(loss.detach())
    return float(sum(losses)) / len(losses)
