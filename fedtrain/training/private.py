"""The local step under record-level differential privacy: DP-SGD (Abadi et al. 2016, algorithm 1) by Opacus.

What this module keeps, besides what Opacus does:

- a batch is a Poisson sample: each record enters on its own, and the batch may be empty, which is still a noisy step;
- the divisor is the plan's public one, never the size of the batch drawn;
- each record has exactly one gradient to clip: a model that makes several rows of a record, a buffer that carries
  something from record to record, or a loss that is another when its record is alone, is refused, and augmented views
  of a record are averaged before;
- a batch that is computed in chunks is clipped in chunks, and has its noise and its divisor once;
- a record whose gradient is not finite contributes zero, so that it cannot destroy the noise;
- noise and samples come from the source that the caller names, and from nowhere else;
- nothing computed from the records but the noisy weights leaves: no loss, no count.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from fedtrain.config import Training
from fedtrain.errors import TaskError
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import RandomSource
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Records, Task, refuse_batch_statistics
from fedtrain.tasks.calls import forward, losses, refuse_coupled_losses, rows, split, to_device
from fedtrain.training.gradients import average_views, collate_views, refuse_mixed_records, silence_non_finite
from fedtrain.training.optimizer import SourcedOptimizer
from fedtrain.training.selfcheck import SelfCheck
from fedtrain.training.steps import RoundSettings, add_proximal_gradient, make_optimizer


def refuse_untrainable(model: nn.Module) -> None:
    """Refuse a model that cannot be trained privately.

    Raises:
        TaskError: names the layer and what to do about it.
    """
    refuse_batch_statistics(model)
    problems = ModuleValidator.validate(model, strict=False)
    if problems:
        raise TaskError(f"the model cannot be trained privately: {'; '.join(str(problem) for problem in problems)}")


@dataclass(frozen=True, kw_only=True)
class PrivateTrainer:
    """Steps with a plan's mechanism on clipped gradients of single records: the `Trainer` with privacy of records.

    ``config.augmentations`` views of each record are averaged before clipping. ``config.physical_batch_size`` records
    (each with its views) are on the device at once; it changes the result by rounding alone, apart from layers that
    draw at random, such as dropout.

    Attributes:
        config: how to train.
        plan: the mechanism.
        source: where batches and noise are drawn from.
    """

    config: Training
    plan: PrivacyPlan
    source: RandomSource

    def train(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> None:
        """Train the model in place on the records, for one round.

        Formal guarantee: if what the source draws cannot be predicted, the change of the weights is the output of
        ``plan.event(plan.spec.steps_per_round)`` on the records, whatever the records are; see
        `fedtrain.privacy.noise` on floats.

        Raises:
            TaskError: the model or the losses do not give each record a gradient of its own.
            ClientError: the self-check of the first step failed; the model is to be thrown away.
        """
        spec = self.plan.spec
        model.train()
        with _gradients_of_records(model) as wrapped:
            optimizer = SourcedOptimizer(
                make_optimizer(self.config, wrapped, settings.learning_rate), plan=self.plan, source=self.source
            )
            parameters: list[nn.Parameter] = optimizer.params
            anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
            augmentation = seeded_generator(settings.seed, "augmentation")
            check = SelfCheck(model, self.plan)
            for _ in range(spec.steps_per_round):
                optimizer.zero_grad()
                drawn = self.source.bernoulli(len(records), spec.sampling_rate).nonzero().squeeze(1)
                for _ in self._chunks(wrapped, model, task, records.take(drawn), augmentation, check):
                    average_views(parameters, self.config.augmentations)
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
        self,
        wrapped: GradSampleModule,
        model: nn.Module,
        task: Task,
        drawn: Records,
        augmentation: torch.Generator,
        check: SelfCheck,
    ) -> Iterator[None]:
        """Leave the gradients of each chunk's records in the parameters, one chunk after another.

        An empty batch is one empty chunk, without a call of the task or the model.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device, views = parameters[0].device, self.config.augmentations
        if not len(drawn):
            for parameter in parameters:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
            yield
            return
        # Encoded as a whole, so that the augmentation draws the same whatever the chunks.
        batch = collate_views(task, drawn, augmentation, views)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for part in split(batch, (self.config.physical_batch_size or len(drawn)) * views):
            for parameter in parameters:
                parameter.grad_sample = None  # type: ignore[attr-defined]
            chunk = to_device(part, device)
            outputs = forward(task, wrapped, chunk)
            found = losses(task, outputs, chunk)
            if not (check.done and check.compared):
                refuse_coupled_losses(task, outputs, chunk, found)
                check.compared |= rows(chunk) > 1
            torch.autograd.backward(found.mean())
            refuse_mixed_records(model, buffers, rows=rows(chunk))
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
