"""The local step under record-level differential privacy: DP-SGD (Abadi et al. 2016, algorithm 1).

What this module keeps:

- a batch is a Poisson sample: each record enters on its own, and the batch may be empty, which is still a noisy step;
- the divisor is the plan's public one, never the size of the batch drawn;
- each record has exactly one gradient to clip, that of its loss alone: by book-keeping or Opacus' hooks where a
  preflight proved them equal (`fedtrain.training.preflight`), by vmap or a loop over single records elsewhere. In the
  first step with records some are computed again alone. Augmented views of a record are averaged before clipping;
- the forward pass writes no parameter and no buffer: something of a record would reach others, or the released model;
- a batch that is computed in chunks is clipped in chunks, and has its noise and its divisor once;
- many clipped gradients are added up in double precision: a record more must not move the rounding of all others;
- products are of single precision where the model is, whatever the program has asked torch for;
- a record whose gradient is not finite contributes zero, so that it cannot destroy the noise;
- noise and samples come from the source that the caller names, and from nowhere else;
- nothing computed from the records but the noisy weights leaves: no loss, no count.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtrain.config import Training
from fedtrain.privacy import PrivacyPlan
from fedtrain.privacy.noise import RandomSource
from fedtrain.seeding import seeded_generator
from fedtrain.tasks import Batch, Records, Task, names_of
from fedtrain.tasks.calls import refuse_coupled_losses, rows, split, to_device
from fedtrain.training.bookkeeping import Book
from fedtrain.training.gradients import by_loop, by_vmap, collate_alone, collate_views, trainable, whole_precision
from fedtrain.training.hooks import Hooked, leave_plain
from fedtrain.training.perrecord import PerRecord
from fedtrain.training.preflight import WATCHING, PreflightResult
from fedtrain.training.selfcheck import SelfCheck, SpotCheck, refuse_other_sum, tolerance
from fedtrain.training.state import Still, Weights
from fedtrain.training.steps import LocalOptimizer, RoundSettings, add_proximal_gradient

Chunk = Batch | list[Batch]
"""A batch of several rows, or a batch of one row for each record."""


# Of so many clipped gradients a sum in single precision is exact to some 1e-5 of the clipping norm. One record more
# moves the rounding of all: of 16,000, by 6e-4 of it.
_MANY = 512


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """What the steps of a round have in common.

    Attributes:
        model: what is trained.
        task: its task.
        records: those that batches are drawn of.
        clip_norm: bound on the norm of each record's gradient.
        augmentation: decides how records are augmented.
        parameters: those that are trained, in the model's order.
        watching: what watches the layers of the model, if the way does so.
        spot: compares some records with themselves alone, until that is done.
        check: follows the first step with records.
        weights: those of the model, which a forward pass may not write.
    """

    model: nn.Module
    task: Task
    records: Records
    clip_norm: float
    augmentation: torch.Generator
    parameters: list[nn.Parameter]
    watching: Book | Hooked | None
    spot: SpotCheck | None
    check: SelfCheck
    weights: Weights


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

    def train(
        self, model: nn.Module, task: Task, records: Records, settings: RoundSettings, *, checked: bool = False
    ) -> None:
        """Train the model in place on the records, for one round.

        Formal guarantee: if what the source draws cannot be predicted, the change of the weights is the output of
        ``plan.event(plan.spec.steps_per_round)`` on the records, whatever the records are; see
        `fedtrain.privacy.noise` on floats.

        Args:
            model: the model, with the weights to begin with.
            task: its task.
            records: those that the batches are drawn of.
            settings: of the round.
            checked: whether `check` took a step before. Else the first step with records is checked. Whether that
                fails can depend on weights and records together: do not show it to whoever chose the weights.

        Raises:
            TaskError: the model or the losses do not give each record a gradient of its own.
            ClientError: the self-check of the first step failed; the model is to be thrown away.
        """
        for _ in self._trained(model, task, records, settings, checked=checked):
            pass

    def check(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> None:
        """Take steps as `train` does, until one with records was checked. The model is to be thrown away.

        Raises:
            TaskError: the model or the losses do not give each record a gradient of its own.
            ClientError: the self-check failed.
        """
        with closing(self._trained(model, task, records, settings, checked=False)) as steps:
            for check in steps:
                if check.done:
                    return

    def _trained(
        self, model: nn.Module, task: Task, records: Records, settings: RoundSettings, *, checked: bool
    ) -> Generator[SelfCheck, None, None]:
        """Take the steps of a round, and yield after each what has been checked."""
        spec = self.plan.spec
        std = self.plan.noise_multiplier * spec.clip_norm
        with self._steps(model, task, records, settings, clip_norm=spec.clip_norm, checked=checked) as steps:
            parameters, check = steps.parameters, steps.check
            optimizer = LocalOptimizer(self.config, model, settings.learning_rate)
            anchors = [parameter.detach().clone() for parameter in parameters] if settings.proximal_mu else []
            for _ in range(spec.steps_per_round):
                sums = self._clipped_sum(steps)
                noisy = with_noise(sums, std=std, source=self.source)
                check.after_noise(sums, noisy)
                for parameter, total in zip(parameters, noisy, strict=True):
                    parameter.grad = total.div_(spec.divisor).to(parameter.dtype)
                if anchors:
                    add_proximal_gradient(parameters, anchors, settings.proximal_mu)
                optimizer.step()
                check.after_step()
                yield check

    def gradient_sum(
        self,
        model: nn.Module,
        task: Task,
        records: Records,
        settings: RoundSettings,
        *,
        clip_norm: float,
        checked: bool = False,
    ) -> tuple[dict[str, Tensor], bool]:
        """Return the sum of the clipped gradients of one batch of the records, by name, in float64 and without noise.

        Returned too is whether the model was checked on records of the batch, or was so before.

        The noise is for the caller to add; a sum without it is not to leave the client. Chunks of a batch are added up
        in float64.

        Args:
            model: the model; its weights stay as they are.
            task: its task.
            records: those that the batch is drawn of.
            settings: of the round; only the seed is used.
            clip_norm: bound on the norm of each record's gradient.
            checked: whether the first steps of the model on these records have been checked, and this one need not be.

        Raises:
            TaskError: the model or the losses do not give each record a gradient of its own.
            ClientError: the self-check failed.
        """
        with self._steps(model, task, records, settings, clip_norm=clip_norm, checked=checked) as steps:
            sums = self._clipped_sum(steps, exact=True)
        names = names_of(model)
        trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
        return {names[name]: total for name, total in zip(trained, sums, strict=True)}, steps.check.compared

    @contextmanager
    def _steps(
        self,
        model: nn.Module,
        task: Task,
        records: Records,
        settings: RoundSettings,
        *,
        clip_norm: float,
        checked: bool = False,
    ) -> Iterator["_Steps"]:
        """Get ready for the steps of a round."""
        model.train()
        # A loop over records is what is compared with.
        spot = (
            None
            if checked or self.preflight.way == "loop"
            else SpotCheck(model, task, self.preflight, clip_norm=clip_norm)
        )
        check = SelfCheck(model, clip_norm=clip_norm, std=self.plan.noise_multiplier * clip_norm, done=checked)
        with whole_precision(), self._ready(model) as watching:
            yield _Steps(
                model=model,
                task=task,
                records=records,
                clip_norm=clip_norm,
                augmentation=seeded_generator(settings.seed, "augmentation"),
                parameters=trainable(model),
                watching=watching,
                spot=spot,
                check=check,
                weights=Weights(model, values=not checked),
            )

    def _clipped_sum(self, steps: "_Steps", *, exact: bool = False) -> list[Tensor]:
        """Draw a batch, and return the sum of its records' clipped gradients, for each parameter.

        Args:
            steps: what the steps of the round have in common.
            exact: whether records are added up in float64; many are in any case.
        """
        check, weights, device = steps.check, steps.weights, steps.parameters[0].device
        # Records never meet where each is computed by itself.
        alone = self.config.physical_batch_size == self.config.augmentations == 1
        drawn = self.source.bernoulli(len(steps.records), self.plan.spec.sampling_rate).nonzero().squeeze(1)
        exact |= len(drawn) > _MANY
        weights.mark(values=not check.done)
        sums: list[Tensor] = []
        for chunk in self._chunks(steps.task, steps.records.take(drawn), steps.augmentation, device):
            checking = None if check.done and check.compared else steps.spot
            found = self._compute(steps.model, steps.task, chunk, steps.watching, weights, checking)
            check.compared |= _count(chunk) > (0 if alone else 1)
            found = found.averaged(self.config.augmentations).settled()
            clipped = found.clipped(steps.clip_norm, exact=exact)
            sums = [a + b for a, b in zip(sums, clipped, strict=True)] if sums else clipped
            check.after_clipping(found, sums)
        return sums

    @contextmanager
    def _ready(self, model: nn.Module) -> Iterator[Book | Hooked | None]:
        """Watch the layers of the model if the way does so, and leave it as a plain module, also after a failure."""
        watching = WATCHING.get(self.preflight.way)
        try:
            with watching(model) if watching else nullcontext() as found:
                yield found
        finally:
            leave_plain(model)

    def _chunks(
        self, task: Task, drawn: Records, augmentation: torch.Generator, device: torch.device
    ) -> Iterator[Chunk]:
        """Yield a batch in chunks; an empty batch is one empty chunk, made without a call of the task."""
        views = self.config.augmentations
        size = (self.config.physical_batch_size or getattr(task, "together", None) or len(drawn)) * views
        if not len(drawn):
            yield []
        elif self.preflight.way in WATCHING:
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
        watching: Book | Hooked | None,
        weights: Weights,
        spot: SpotCheck | None,
    ) -> PerRecord:
        """Return the gradients of a chunk's rows.

        Args:
            model: the model.
            task: its task.
            chunk: the records.
            watching: what watches the model, if the way does so.
            weights: those of the model, which the forward pass may not write.
            spot: compares some records with themselves alone, if this is the first step with records.
        """
        if _count(chunk) and spot and self.preflight.draws:
            self._compare_still(model, task, chunk, watching, spot)
        found, records = self._gradients(model, task, chunk, watching, own=spot is not None)
        weights.refuse_written()
        if spot and watching and isinstance(chunk, dict):
            assert watching.outputs is not None
            refuse_coupled_losses(task, watching.outputs, chunk, found)
            self._compare_sum(model, task, chunk, watching, found, records)
        if _count(chunk) and spot and not self.preflight.draws:
            spot.compare(chunk, found, records)
        return records

    def _compare_sum(
        self, model: nn.Module, task: Task, chunk: Batch, watching: Book | Hooked, found: Tensor, records: PerRecord
    ) -> None:
        """Compare the sum of the gradients with autograd's own; again without the records that hide those of others."""
        hiding = refuse_other_sum(model, records, watching.own, tolerance(found.dtype))
        if not hiding.any() or hiding.all():
            return
        rest = {name: value[(~hiding).to(value.device)] for name, value in chunk.items()}
        with torch.random.fork_rng(_cuda_devices(model)):
            _, others = watching(task, rest, own=True)
        refuse_other_sum(model, others, watching.own, tolerance(found.dtype))

    def _compare_still(
        self, model: nn.Module, task: Task, chunk: Chunk, watching: Book | Hooked | None, spot: SpotCheck
    ) -> None:
        """Compare with what is drawn at random held still, and leave torch's generators as they are."""
        with torch.random.fork_rng(_cuda_devices(model)), Still():
            spot.compare(chunk, *self._gradients(model, task, chunk, watching, own=False))

    def _gradients(
        self, model: nn.Module, task: Task, chunk: Chunk, watching: Book | Hooked | None, *, own: bool
    ) -> tuple[Tensor, PerRecord]:
        parameters = trainable(model)
        if isinstance(chunk, dict):
            assert watching is not None
            return watching(task, chunk, own=own)
        if not chunk:
            return parameters[0].new_zeros(0), PerRecord(parameters, [None] * len(parameters), 0)
        found, gradients = (by_vmap if self.preflight.way == "vmap" else by_loop)(task, model, chunk)
        return found, PerRecord.of(parameters, gradients)


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return list({parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"})


def _count(chunk: Chunk) -> int:
    return rows(chunk) if isinstance(chunk, dict) else len(chunk)


def with_noise(sums: Sequence[Tensor], *, std: float, source: RandomSource) -> list[Tensor]:
    """Return sums with Gaussians added, which are one draw for all sums of a device and precision.

    Args:
        sums: in single precision at least: rounding in half precision makes a clipped gradient longer than the bound.
        std: the noise multiplier times the clipping norm.
        source: draws the noise.
    """
    noisy = list(sums)
    for device, dtype in dict.fromkeys((total.device, total.dtype) for total in sums):
        chosen = [at for at, total in enumerate(sums) if (total.device, total.dtype) == (device, dtype)]
        sizes = [sums[at].numel() for at in chosen]
        noise = torch.split(source.gaussian((sum(sizes),), std=std, device=device, dtype=dtype), sizes)
        for at, drawn in zip(chosen, noise, strict=True):
            noisy[at] = drawn.view_as(sums[at]).add_(sums[at])
    return noisy
