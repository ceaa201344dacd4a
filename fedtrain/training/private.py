"""The local step under record-level differential privacy: DP-SGD (Abadi et al. 2016, algorithm 1) by Opacus.

What this module keeps, besides what Opacus does:

- a batch is a Poisson sample: each record enters on its own, and the batch may be empty, which is still a noisy step;
- the divisor is the plan's public batch size, never the size of the batch drawn;
- each record has exactly one gradient to clip: a model that makes several rows of a record, or a buffer that carries
  something from record to record, is refused;
- a record whose gradient is not finite contributes zero, so that it cannot destroy the noise;
- nothing computed from the records but the noisy weights leaves: no loss, no count.
"""

import warnings

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedtrain.config import Training
from fedtrain.errors import TaskError
from fedtrain.privacy import PrivacyPlan
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Task, refuse_batch_statistics
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
) -> None:
    """Train the model in place on the records with the plan's mechanism, for one round.

    Formal guarantee: if the noise cannot be predicted, the change of the weights is the output of ``plan.round_event``
    on the records, whatever the records are.
    """
    device = next(model.parameters()).device
    model.train()
    with warnings.catch_warnings():
        # The first layer's input needs no gradient; Opacus' hooks are made for that.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        wrapped = GradSampleModule(model, loss_reduction="mean")
        try:
            _steps(wrapped, model, task, records, config, settings, plan, device)
        finally:
            wrapped.to_standard_module()


def _steps(
    wrapped: GradSampleModule,
    model: nn.Module,
    task: Task,
    records: Records,
    config: Training,
    settings: RoundSettings,
    plan: PrivacyPlan,
    device: torch.device,
) -> None:
    optimizer = DPOptimizer(
        make_optimizer(config, wrapped, settings.learning_rate),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.spec.clip_norm,
        expected_batch_size=plan.spec.divisor,
        generator=seeded_generator(settings.seed, "noise", device=device),
    )
    parameters: list[nn.Parameter] = optimizer.params
    anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
    sampler = seeded_generator(settings.seed, "sampling")
    augmentation = seeded_generator(settings.seed, "augmentation")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for _ in range(plan.spec.steps_per_round):
        drawn = torch.rand(len(records), generator=sampler, dtype=torch.float64) < plan.spec.sampling_rate
        batch = drawn.nonzero().squeeze(1)
        optimizer.zero_grad()
        if len(batch):
            features = task.encode(records.features[batch], augmentation).to(device)
            torch.autograd.backward(task.loss(wrapped(features), records.labels[batch].to(device)))
            _refuse_mixed_records(model, buffers, records=len(batch))
            silence_non_finite(parameters)
        else:
            for parameter in parameters:
                parameter.grad_sample = torch.zeros((0, *parameter.shape), device=device)  # type: ignore[attr-defined]
        optimizer.pre_step()
        if anchors:
            add_proximal_gradient(parameters, anchors, settings.proximal_mu)
        optimizer.original_optimizer.step()


def _refuse_mixed_records(model: nn.Module, buffers: dict[str, Tensor], *, records: int) -> None:
    """Refuse a backward pass that did not leave exactly one gradient of each parameter for each record.

    Clipping bounds rows. With several rows of a record its contribution is a multiple of the bound; with rows of
    something else, or a buffer filled from the batch, a record is in the gradients of others.

    Raises:
        TaskError: names the parameter or the buffer. It says nothing of the batch, whose size is private.
    """
    for name, parameter in model.named_parameters():
        gradient = getattr(parameter, "grad_sample", None)
        if parameter.requires_grad and not (isinstance(gradient, Tensor) and len(gradient) == records):
            raise TaskError(
                f"the model cannot be trained privately: its parameter {name} has not one gradient for each record. "
                "Every layer with parameters must be called in the forward pass, with the records along the first "
                "dimension of its input; freeze (requires_grad = False) or remove what is not used"
            )
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            raise TaskError(
                f"the model cannot be trained privately: its buffer {name} changes in the forward pass, so that "
                "records are in the gradients of other records; remove it, or leave it as it is in training mode"
            )


def silence_non_finite(parameters: list[nn.Parameter]) -> None:
    """Set the whole gradient of each record to zero that has a value in it which is not finite.

    Each parameter holds ``grad_sample`` of shape (batch, *parameter). The norm of such a record is not a number, so
    clipping would pass it on and one record could turn all weights into NaN.
    """
    gradients: list[Tensor] = [parameter.grad_sample for parameter in parameters]  # type: ignore[attr-defined]
    finite = torch.stack([gradient.flatten(1).isfinite().all(1) for gradient in gradients]).all(0)
    if not finite.all():
        for gradient in gradients:
            gradient[~finite] = 0.0
