"""The local step under record-level differential privacy: DP-SGD (Abadi et al. 2016, algorithm 1) by Opacus.

What this module keeps, besides what Opacus does:

- a batch is a Poisson sample: each record enters on its own, and the batch may be empty, which is still a noisy step;
- the divisor is the plan's public one, never the size of the batch drawn;
- each record has exactly one gradient to clip: a model that makes several rows of a record, or a buffer that carries
  something from record to record, is refused, and augmented views of a record are averaged before;
- a batch that is computed in chunks is clipped in chunks, and has its noise and its divisor once;
- a record whose gradient is not finite contributes zero, so that it cannot destroy the noise;
- noise and samples come from the source that the caller names, and from nowhere else;
- nothing computed from the records but the noisy weights leaves: no loss, no count.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedtrain.config import Training
from fedtrain.errors import TaskError
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import RandomSource
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Task, refuse_batch_statistics
from fedtrain.training.gradients import average_views, encode_views, refuse_mixed_records, silence_non_finite
from fedtrain.training.optimizer import SourcedOptimizer
from fedtrain.training.selfcheck import SelfCheck
from fedtrain.training.steps import Records, RoundSettings, add_proximal_gradient, make_optimizer


def refuse_untrainable(model: nn.Module) -> None:
    """Refuse a model that cannot be trained privately.

    Raises:
        TaskError: names the layer and what to do about it.
    """
    refuse_batch_statistics(model)
    problems = ModuleValidator.validate(model, strict=False)
    if problems:
        raise TaskError(f"the model cannot be trained privately: {'; '.join(str(problem) for problem in problems)}")


def train_private(
    model: nn.Module,
    task: Task,
    records: Records,
    config: Training,
    settings: RoundSettings,
    plan: PrivacyPlan,
    source: RandomSource,
) -> None:
    """Train the model in place on the records with the plan's mechanism, for one round.

    ``config.augmentations`` views of each record are averaged before clipping. ``config.physical_batch_size`` records
    (each with its views) are on the device at once; it changes the result by rounding alone, apart from layers that
    draw at random, such as dropout.

    Formal guarantee: if what the source draws cannot be predicted, the change of the weights is the output of
    ``plan.round_event`` on the records, whatever the records are; see `fedtrain.privacy.noise.secure` on floats.

    Raises:
        TaskError: the model does not give each record a gradient of its own.
        ClientError: the self-check of the first step failed; the model is to be thrown away.
    """
    model.train()
    with _gradients_of_records(model) as wrapped:
        optimizer = SourcedOptimizer(make_optimizer(config, wrapped, settings.learning_rate), plan=plan, source=source)
        parameters: list[nn.Parameter] = optimizer.params
        anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
        augmentation = seeded_generator(settings.seed, "augmentation")
        check = SelfCheck(model, plan)
        for _ in range(plan.spec.steps_per_round):
            optimizer.zero_grad()
            batch = source.bernoulli(len(records), plan.spec.sampling_rate).nonzero().squeeze(1)
            for _ in _chunks(wrapped, model, task, records, batch, config, augmentation):
                average_views(parameters, config.augmentations)
                silence_non_finite(parameters)
                optimizer.clip_and_accumulate()
                check.after_clipping()
            optimizer.add_noise()
            check.after_noise()
            optimizer.scale_grad()
            if anchors:
                add_proximal_gradient(parameters, anchors, settings.proximal_mu)
            optimizer.original_optimizer.step()
            check.after_step()


def _chunks(
    wrapped: GradSampleModule,
    model: nn.Module,
    task: Task,
    records: Records,
    batch: Tensor,
    config: Training,
    augmentation: torch.Generator,
) -> Iterator[None]:
    """Leave the gradients of each chunk's records in the parameters, one chunk after another.

    An empty batch is one empty chunk, without a call of the model.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    views = config.augmentations
    if not len(batch):
        for parameter in parameters:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        yield
        return
    # Encoded as a whole, so that the augmentation draws the same whatever the chunks.
    features = encode_views(task, records.features[batch], augmentation, views)
    labels = records.labels[batch].repeat_interleave(views)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rows = (config.physical_batch_size or len(batch)) * views
    for inputs, targets in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
        for parameter in parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]
        torch.autograd.backward(task.loss(wrapped(inputs.to(device)), targets.to(device)))
        refuse_mixed_records(model, buffers, rows=len(inputs))
        yield


@contextmanager
def _gradients_of_records(model: nn.Module) -> Iterator[GradSampleModule]:
    """Wrap the model with Opacus' hooks, and leave it as a plain module again, also after a failure.

    What Opacus leaves behind are records (the inputs of layers) and the sum without noise.
    """
    with warnings.catch_warnings():
        # The first layer's input needs no gradient; Opacus' hooks are made for that.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        wrapped = GradSampleModule(model, loss_reduction="mean")
        try:
            yield wrapped
        finally:
            wrapped.to_standard_module()
            for owner in (*model.parameters(), *model.modules()):
                for left in ("summed_grad", "activations", "max_batch_len"):
                    vars(owner).pop(left, None)
            for parameter in model.parameters():
                parameter.grad = None
