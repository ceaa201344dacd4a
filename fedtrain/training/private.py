"""The local step under record-level differential privacy: DP-SGD (Abadi et al. 2016, algorithm 1).

What this module keeps:

- a batch is a Poisson sample: each record enters on its own, and the batch may be empty, which is still a noisy step;
- the divisor is the plan's public one, never the size of the batch drawn;
- each record has exactly one gradient to clip, that of its loss alone: by Opacus' hooks where a preflight proved them
  equal (`fedtrain.training.preflight`), by vmap or a loop over single records elsewhere. In the first step with records
  some are computed again alone. Augmented views of a record are averaged before clipping;
- the forward pass writes no parameter and no buffer: something of a record would reach others, or the released model;
- a batch that is computed in chunks is clipped in chunks, and has its noise and its divisor once;
- a record whose gradient is not finite contributes zero, so that it cannot destroy the noise;
- noise and samples come from the source that the caller names, and from nowhere else;
- nothing computed from the records but the noisy weights leaves: no loss, no count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtrain.config import Training
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import RandomSource
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Batch, Records, Task
from fedtrain.tasks.calls import refuse_coupled_losses, rows, split, to_device
from fedtrain.training.gradients import (
    Gradients,
    average_views,
    by_loop,
    by_vmap,
    collate_alone,
    collate_views,
    rows_of,
    silence_non_finite,
    trainable,
)
from fedtrain.training.hooks import Hooked, hooked, leave_plain
from fedtrain.training.preflight import PreflightResult
from fedtrain.training.selfcheck import SelfCheck, SpotCheck, tolerance
from fedtrain.training.state import Still, Weights
from fedtrain.training.steps import RoundSettings, add_proximal_gradient, make_optimizer

Chunk = Batch | list[Batch]
"""A batch of several rows, or a batch of one row for each record."""


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
        preflight: what it found of the model, the task and the schema of the records.
    """

    config: Training
    plan: PrivacyPlan
    source: RandomSource
    preflight: PreflightResult

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
        parameters = trainable(model)
        # A loop over records is what is compared with.
        spot = (
            None if self.preflight.way == "loop" else SpotCheck(model, task, self.preflight, clip_norm=spec.clip_norm)
        )
        with self._ready(model) as hooks:
            optimizer = SourcedOptimizer(
                make_optimizer(self.config, model, settings.learning_rate), plan=self.plan, source=self.source
            )
            anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
            augmentation = seeded_generator(settings.seed, "augmentation")
            check = SelfCheck(model, self.plan)
            for _ in range(spec.steps_per_round):
                optimizer.zero_grad()
                drawn = self.source.bernoulli(len(records), spec.sampling_rate).nonzero().squeeze(1)
                weights = Weights(model, values=not check.done)
                for chunk in self._chunks(task, records.take(drawn), augmentation, parameters[0].device):
                    checking = None if check.done and check.compared else spot
                    self._compute(model, task, chunk, hooks, weights, checking)
                    check.compared |= _count(chunk) > 1
                    average_views(parameters, self.config.augmentations)
                    silence_non_finite(parameters)
                    optimizer.clip_and_accumulate()
                    check.after_clipping()
                optimizer.add_noise()
                check.after_noise(optimizer.noisy)
                optimizer.scale_grad()
                if anchors:
                    add_proximal_gradient(parameters, anchors, settings.proximal_mu)
                optimizer.original_optimizer.step()
                check.after_step()

    @contextmanager
    def _ready(self, model: nn.Module) -> Iterator[Hooked | None]:
        """Put hooks on the model if they are used, and leave it as a plain module, also after a failure."""
        try:
            if self.preflight.way == "hooks":
                with hooked(model) as hooks:
                    yield hooks
            else:
                yield None
        finally:
            leave_plain(model)

    def _chunks(
        self, task: Task, drawn: Records, augmentation: torch.Generator, device: torch.device
    ) -> Iterator[Chunk]:
        """Yield a batch in chunks; an empty batch is one empty chunk, made without a call of the task."""
        views = self.config.augmentations
        size = (self.config.physical_batch_size or len(drawn)) * views
        if not len(drawn):
            yield []
        elif self.preflight.way == "hooks":
            # Encoded as a whole, so that the augmentation draws the same whatever the chunks.
            for part in split(collate_views(task, drawn, augmentation, views), size):
                yield to_device(part, device)
        else:
            ones = collate_alone(task, drawn, augmentation, views=views)
            for start in range(0, len(ones), size):
                yield [to_device(one, device) for one in ones[start : start + size]]

    def _compute(
        self,
        model: nn.Module,
        task: Task,
        chunk: Chunk,
        hooks: Hooked | None,
        weights: Weights,
        spot: SpotCheck | None,
    ) -> None:
        """Leave the gradients of a chunk's records in the parameters, as ``grad_sample``.

        Args:
            model: the model.
            task: its task.
            chunk: the records.
            hooks: those on the model, if they are used.
            weights: those of the model, which the forward pass may not write.
            spot: compares some records with themselves alone, if this is the first step with records.
        """
        if _count(chunk) and spot and self.preflight.draws:
            self._compare_still(model, task, chunk, hooks, spot)
        found, gradients = self._gradients(model, task, chunk, hooks)
        weights.refuse_written()
        if spot and hooks and isinstance(chunk, dict):
            assert hooks.outputs is not None
            refuse_coupled_losses(task, hooks.outputs, chunk, found)
            hooks.refuse_other_sum(gradients, tolerance(found.dtype))
        if _count(chunk) and spot and not self.preflight.draws:
            spot.compare(chunk, found, gradients)
        for parameter, gradient in zip(trainable(model), gradients, strict=True):
            parameter.grad_sample = gradient  # type: ignore[attr-defined]

    def _compare_still(self, model: nn.Module, task: Task, chunk: Chunk, hooks: Hooked | None, spot: SpotCheck) -> None:
        """Compare with what is drawn at random held still, and leave torch's generators as they are."""
        devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
        with torch.random.fork_rng(list(devices)), Still():
            spot.compare(chunk, *self._gradients(model, task, chunk, hooks))

    def _gradients(self, model: nn.Module, task: Task, chunk: Chunk, hooks: Hooked | None) -> tuple[Tensor, Gradients]:
        if isinstance(chunk, dict):
            assert hooks is not None
            return hooks(task, chunk)
        if not chunk:
            parameters = trainable(model)
            return parameters[0].new_zeros(0), [each.new_zeros((0, *each.shape)) for each in parameters]
        return by_vmap(task, model, chunk) if self.preflight.way == "vmap" else by_loop(task, model, chunk)


def _count(chunk: Chunk) -> int:
    return rows(chunk) if isinstance(chunk, dict) else len(chunk)


class SourcedOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Clips as Opacus does, and takes noise and divisor from the plan.

    One logical batch is ``clip_and_accumulate`` for each chunk of it, then ``add_noise`` and ``scale_grad`` once.
    Norms, sums and noise are in single precision at least, also where the model is in half precision: rounding in half
    precision makes a clipped gradient longer than the bound.

    Attributes:
        noisy: after ``add_noise``, for each parameter the sum with its noise.
    """

    def __init__(self, optimizer: Optimizer, *, plan: PrivacyPlan, source: RandomSource) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.spec.clip_norm,
            expected_batch_size=plan.spec.divisor,
        )
        self._source = source
        self.noisy: list[Tensor] = []

    def clip_and_accumulate(self) -> None:
        """Add the gradients of a chunk's records to ``summed_grad``, each scaled down to the clipping norm."""
        if not any(_half(parameter) for parameter in self.params):
            super().clip_and_accumulate()
            return
        gradients = [parameter.grad_sample.to(_precision(parameter)) for parameter in self.params]
        norms = torch.stack([rows_of(gradient).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter, gradient in zip(self.params, gradients, strict=True):
            total = torch.einsum("i,i...", factors.to(gradient), gradient)
            before = parameter.summed_grad
            parameter.summed_grad = total if before is None else before + total

    def add_noise(self) -> None:
        """Add Gaussians of noise multiplier * clip norm to the sum of the clipped gradients."""
        std = self.noise_multiplier * self.max_grad_norm
        self.noisy = []
        for parameter in self.params:
            total = parameter.summed_grad
            noise = self._source.gaussian(total.shape, std=std, device=total.device, dtype=total.dtype)
            self.noisy.append((total + noise).view_as(parameter))

    def scale_grad(self) -> None:
        """Set each gradient to the noisy sum over the public divisor, once for however many chunks the batch had."""
        for parameter, total in zip(self.params, self.noisy, strict=True):
            parameter.grad = (total / self.expected_batch_size).to(parameter.dtype)


def _half(parameter: Tensor) -> bool:
    return parameter.dtype.itemsize < torch.float32.itemsize


def _precision(parameter: Tensor) -> torch.dtype:
    return torch.float32 if _half(parameter) else parameter.dtype
