"""What a trainer is, what the plain and the private local step share, and the local step without privacy."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, cos, pi
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedtrain.config import Training
from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.privacy.mechanisms import Requirements
from fedtrain.seeding import derive_seed, seeded_generator
from fedtrain.tasks import Batch, Records, Task, refuse_batch_statistics
from fedtrain.tasks.calls import collate, forward, losses, refuse_complex, to_device

if TYPE_CHECKING:
    from fedtrain.training.preflight import PreflightResult


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """What the server decides for one client in one round.

    Attributes:
        learning_rate: the rate of the schedule.
        proximal_mu: weight of FedProx's proximal term (Li et al. 2020, equation 2); 0 for none.
        seed: the seed of this client in this round.
    """

    learning_rate: float
    proximal_mu: float
    seed: int


class Trainer(Protocol):
    """Trains a model for one round at one client.

    Which trainer runs is a matter of the privacy mode and of speed: on the same batches, without clipping and noise,
    all leave the same weights, but for rounding.
    """

    def train(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> float | None:
        """Train the model in place on the records.

        Returns:
            The mean loss over the batches; ``None`` where it would be an access to the records that nothing pays for.

        Raises:
            TaskError: the task or its model does not keep to what the trainer needs.
        """


def check_model(model: nn.Module, requires: Requirements, *, task: Task, info: DataInfo) -> "PreflightResult | None":
    """Refuse a model that cannot be trained as a mechanism requires, on synthetic records of the schema alone.

    Of a model with frozen weights it is also tried whether all that is trained moves.

    Returns:
        How the gradients of its single records are computed; ``None`` where the mechanism needs none.

    Raises:
        TaskError: it says which layer is not allowed, where records meet, or what does not move.
    """
    from fedtrain.training.moving import refuse_unmoved  # noqa: PLC0415 - only where it is needed

    refuse_unmoved(model, task, info, by_record=requires.per_record_gradients)
    if requires.per_record_gradients:
        from fedtrain.training.preflight import preflight  # noqa: PLC0415 - only where it is needed

        return preflight(model, task, info)
    if requires.no_batch_statistics:
        refuse_batch_statistics(model)
        refuse_complex(model)
    return None


def refused_alone(model: nn.Module, task: Task, records: Records) -> str:
    """Return why a model cannot be trained on a batch of one record, though it can on more; empty where it can.

    Batch normalisation is the usual reason, in a layer or in a function that the model calls.

    Args:
        model: the model; a copy of it is tried.
        task: its task.
        records: two records.
    """

    def refused(some: Records) -> str:
        batch = to_device(collate(task, some, None), next(tried.parameters()).device)
        try:
            losses(task, forward(task, tried, batch), batch)
        except Exception as error:  # noqa: BLE001 - a model of the user's own may raise anything
            return str(error) or type(error).__name__
        return ""

    tried = deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return "" if refused(records) else refused(records.take(slice(0, 1)))


class LocalOptimizer:
    """The client's optimizer: torch's own functions for SGD, Adam and AdamW, and so the weights of ``torch.optim``.

    Its classes import torch's compiler when the first is made, which takes a second of each process.

    Attributes:
        parameters: those that are trained, in the model's order. Each step takes ``grad`` of them.
    """

    def __init__(self, config: Training, model: nn.Module, learning_rate: float) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._config, self._learning_rate = config, learning_rate
        self._averages: dict[nn.Parameter, Tensor | None] = dict.fromkeys(self.parameters)
        self._squares = {} if config.optimizer == "sgd" else {each: torch.zeros_like(each) for each in self.parameters}
        self._steps = {each: torch.zeros(()) for each in self._squares}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters that have a gradient.

        Raises:
            TaskError: a gradient is sparse, which Adam and AdamW do not take.
        """
        found = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        chosen, gradients = [parameter for parameter, _ in found], [gradient for _, gradient in found]
        sparse = any(gradient.is_sparse for gradient in gradients)
        if self._config.optimizer == "sgd":
            averages = [self._averages[each] for each in chosen]
            sgd(
                [*chosen],
                gradients,
                averages,
                has_sparse_grad=sparse,
                weight_decay=self._config.weight_decay,
                momentum=self._config.momentum,
                lr=self._learning_rate,
                dampening=0,
                nesterov=False,
                maximize=False,
            )
            self._averages.update(zip(chosen, averages, strict=True))
            return
        if sparse:
            raise TaskError(
                f"{self._config.optimizer} takes no sparse gradients: build the model's embeddings with sparse=False, "
                'or set training.optimizer = "sgd"'
            )
        for each in chosen:
            if self._averages[each] is None:
                self._averages[each] = torch.zeros_like(each)
        adam(
            [*chosen],
            gradients,
            [average for each in chosen if (average := self._averages[each]) is not None],
            [self._squares[each] for each in chosen],
            [],
            [self._steps[each] for each in chosen],
            decoupled_weight_decay=self._config.optimizer == "adamw",
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self._learning_rate,
            weight_decay=self._config.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )


# torch's own.
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


def seed_layers(seed: int) -> None:
    """Seed what layers such as dropout draw from, torch's global generator, for a client in a round."""
    derived = derive_seed(seed, "layers")
    # As torch.manual_seed, which writes down the stack for each kind of device that there could be.
    torch.default_generator.manual_seed(derived)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(derived)


def shuffled_batches(records: int, config: Training, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of each batch of a plain local step: passes over the records, shuffled anew each time.

    ``local_steps`` batches, or ``local_epochs`` passes (1 if neither is set), of ``batch_size`` records. The last batch
    of a pass may be smaller. Where a single record would be left for it, that record joins the batch before: batch
    normalisation has no statistics of one.
    """
    a_pass = ceil(records / config.batch_size)
    if config.batch_size > 1 and records % config.batch_size == 1:
        a_pass = max(1, a_pass - 1)
    steps = config.local_steps or max(1, round((config.local_epochs or 1.0) * a_pass))
    for step in range(steps):
        if step % a_pass == 0:
            order = torch.randperm(records, generator=generator)
        place = step % a_pass
        end = records if place == a_pass - 1 else (place + 1) * config.batch_size
        yield order[place * config.batch_size : end]


def collated_batches(task: Task, records: Records, config: Training, seed: int) -> Iterator[Batch]:
    """Yield the batches of a plain local step as the task makes them, drawn by the seed of a client in a round."""
    order, augmentation = seeded_generator(seed, "batches"), seeded_generator(seed, "augmentation")
    for rows in shuffled_batches(len(records), config, order):
        yield collate(task, records.take(rows), augmentation)


def add_proximal_gradient(parameters: list[nn.Parameter], anchors: list[Tensor], proximal_mu: float) -> None:
    """Add the gradient of FedProx's term, mu / 2 * |w - w_received|^2, which depends on no record."""
    for parameter, anchor in zip(parameters, anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=proximal_mu)


# What computes the same in both layouts, but for rounding, and takes images of either. Group norms crash in torch 2.13.
_OF_EITHER_LAYOUT = (
    *(nn.Sequential, nn.Conv2d, nn.Linear, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Dropout, nn.Dropout2d, nn.Identity),
)


@contextmanager
def fast_layout(model: nn.Module) -> Iterator[None]:
    """Keep the weights of convolutions with channels last, and leave them contiguous.

    Convolutions of images are faster so on CPUs. It is done for models of torch's own layers, since a function of
    somebody else may need its inputs contiguous.
    """
    layers = list(model.modules())
    suits = all(type(layer) in _OF_EITHER_LAYOUT for layer in layers) and any(
        type(layer) is nn.Conv2d for layer in layers
    )
    if not suits or next(model.parameters()).device.type != "cpu":
        yield
        return
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    try:
        for weight in weights:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for weight in weights:
            weight.data = weight.data.contiguous()


@dataclass(frozen=True, kw_only=True)
class PlainTrainer:
    """Steps on the mean loss of shuffled batches: the `Trainer` without privacy of records."""

    config: Training

    def train(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> float:
        """Train the model in place on the records and return the mean loss over the batches."""
        with fast_layout(model):
            return self._train(model, task, records, settings)

    def _train(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> float:
        device = next(model.parameters()).device
        model.train()
        optimizer = LocalOptimizer(self.config, model, settings.learning_rate)
        parameters = optimizer.parameters
        anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
        means = []
        for collated in collated_batches(task, records, self.config, settings.seed):
            batch = to_device(collated, device)
            loss = losses(task, forward(task, model, batch), batch).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if anchors:
                add_proximal_gradient(parameters, anchors, settings.proximal_mu)
            optimizer.step()
            means.append(loss.detach())
        return float(sum(means)) / len(means)


def learning_rate(config: Training, *, round_number: int, rounds: int) -> float:
    """Return the learning rate of a round, counted from 1 to ``rounds``.

    Warm-up rises linearly to the full rate; the schedule then runs over the rounds that are left. The cosine is that of
    Loshchilov and Hutter 2017 (equation 5), without restarts, and reaches its end after the last round.
    """
    if round_number <= config.warmup_rounds:
        return config.learning_rate * round_number / (config.warmup_rounds + 1)
    done = round_number - 1 - config.warmup_rounds
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** (done // config.step_rounds)
    if config.schedule == "cosine":
        progress = done / (rounds - config.warmup_rounds)
        fraction = config.final_fraction + (1 - config.final_fraction) * (1 + cos(pi * progress)) / 2
        return config.learning_rate * fraction
    return config.learning_rate
