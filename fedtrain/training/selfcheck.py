"""Two checks in the first step of each round, before anything is sent: of the mechanism, and of the model.

A client takes that step on a batch of its own, with the weights that its own model begins with, and throws it away.
With weights of the server's choice, that a check fails could tell the server of a record: by sums that cancel up to
rounding, in another order for a batch than for a record alone.

The self-check is there for what no type can rule out: a library that changed, a layer that escapes the hooks, a device
that computes something else. It says whether the mechanism did what the plan says. It works on the tensors that are
about to be used, by other code than that which made them. No message of it says anything about the batch, its size
included. That it fails can depend on the records in one case only: where their sum is so long that the noise is lost
beside it in rounding, and the step would not be private.

The spot check computes some records of the first batch again, each alone: what a model does with some records only
shows there, since synthetic records do not take every branch. What is refused by it says that the records take one that
mixes them, and nothing else of the batch.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Final

import torch
from torch import Tensor, nn

from fedtrain.errors import ClientError, TaskError
from fedtrain.tasks import Batch, Task
from fedtrain.tasks.calls import rows
from fedtrain.training.case import prepared
from fedtrain.training.contributions import norms_of
from fedtrain.training.gradients import NotRecordsError, by_loop, rows_of
from fedtrain.training.perrecord import PerRecord
from fedtrain.training.preflight import PreflightResult

# A record's clipped gradient may be longer than the bound by this much, relatively: rounding is some 1e-6.
CLIP_TOLERANCE = 1e-4

# Measured over declared deviation of the noise; of 1,000 values its own deviation is 0.022.
NOISE_RATIO = (0.8, 1.25)
ENOUGH_VALUES = 1000

# Values of gradients that are compared at once.
_SLICE = 1 << 22


class SelfCheck:
    """Follows a round of private training until a whole step with records has been seen, then rests.

    Attributes:
        done: whether it rests.
        compared: whether losses of several records were compared with those of each alone, or are never computed at
            once.
    """

    def __init__(self, model: nn.Module, *, clip_norm: float, std: float, done: bool = False) -> None:
        """Follow a round.

        Args:
            model: what is trained.
            clip_norm: bound on the norm of each record's gradient.
            std: the declared standard deviation of the noise that a step adds.
            done: whether it rests from the beginning.
        """
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._clip_norm = clip_norm
        self._std = std
        self._received = [] if done else [value.detach().clone() for value in self._parameters.values()]
        self._expected: list[Tensor] = []
        self._records = 0
        self.done = self.compared = done

    def after_clipping(self, records: PerRecord, sums: Sequence[Tensor]) -> None:
        """Compare the sum so far with that of the records' gradients, each scaled down to the clipping norm.

        Called once for each chunk of a batch.

        Args:
            records: the gradients of the chunk's records.
            sums: for each parameter what was summed.

        Raises:
            ClientError: a record could have contributed more than the clipping norm.
        """
        if self.done:
            return
        self._records += len(records)
        if not self._expected:
            self._expected = [torch.zeros_like(total) for total in sums]
        step = max(1, _SLICE // sum(value.numel() for value in self._parameters.values()))
        for start in range(0, len(records), step):
            gradients = records.rows(slice(start, start + step))
            norms = torch.stack([norms_of(gradient) for gradient in gradients]).norm(dim=0)
            factors = (self._clip_norm / (norms + 1e-6)).clamp(max=1.0)
            # A gradient that is not finite, or too long for a factor of single precision, counts as zero.
            finite = (norms <= torch.finfo(torch.float32).max) & (factors >= torch.finfo(torch.float32).tiny)
            for expected, gradient in zip(self._expected, gradients, strict=True):
                expected.add_(torch.einsum("i,i...", factors[finite].to(expected), gradient[finite].to(expected)))
        off = torch.stack([(a - b).norm() for a, b in zip(sums, self._expected, strict=True)]).norm()
        rounding = 4 * torch.finfo(self._precision(sums[0].dtype)).eps * self._records
        # Written so that a NaN fails.
        if not off <= self._clip_norm * (CLIP_TOLERANCE + rounding):
            raise _broken(f"the gradients of single records were not clipped to {self._clip_norm:g}")

    def _precision(self, summed: torch.dtype) -> torch.dtype:
        """Return what gradients are in: they may be added up in float64, and are no more exact for it."""
        single = any(value.dtype is not torch.float64 for value in self._parameters.values())
        return torch.float32 if summed is torch.float64 and single else summed

    def after_noise(self, sums: Sequence[Tensor], noisy: Sequence[Tensor]) -> None:
        """Compare the sums with noise with those without, before they are divided.

        Args:
            sums: for each parameter what was summed.
            noisy: for each parameter its sum with noise.

        Raises:
            ClientError: the noise is missing in a parameter, is lost in rounding, or has another scale.
        """
        if self.done:
            return
        squares, count = 0.0, 0
        for name, before, total in zip(self._parameters, sums, noisy, strict=True):
            added = total - before
            # Single values may be rounded away; that half of them are is no chance.
            if not int((added != 0).sum()) >= added.numel() / 2:
                raise _broken(f"no noise was added to the gradient of {name}, or it is lost in rounding")
            squares, count = squares + float(added.double().square().sum()), count + added.numel()
        ratio = (squares / count) ** 0.5 / self._std
        if count >= ENOUGH_VALUES and not NOISE_RATIO[0] <= ratio <= NOISE_RATIO[1]:
            raise _broken(f"the noise has {ratio:.3g} times the declared standard deviation")

    def after_step(self) -> None:
        """Compare the weights with those received, and rest if the step was one with records.

        Raises:
            ClientError: no weight changed.
        """
        if self.done:
            return
        if all(torch.equal(a, b) for a, b in zip(self._parameters.values(), self._received, strict=True)):
            raise _broken("the weights did not change, although every step adds noise: is the learning rate too small?")
        self.done = self._records > 0
        self._expected.clear()
        if self.done:
            self._received.clear()


def _broken(what: str) -> ClientError:
    return ClientError(
        f"the self-check of private training failed: {what}. Nothing was sent. Check that the installed versions of "
        "torch and Opacus are those that fedtrain asks for, and try the model alone"
    )


MOST: Final = 16
"""How many records of a chunk are computed again."""

_LEAST_PRECISION = 1e-2


def tolerance(dtype: torch.dtype) -> float:
    """Return what rounding may make of a gradient in a precision, over its norm: convolutions may use a coarser one."""
    return 1e-6 if dtype is torch.float64 else max(_LEAST_PRECISION, 32 * torch.finfo(dtype).eps)


class SpotCheck:
    """Compares losses and gradients of a chunk with those of single records, computed by a copy of the model.

    The copy is in double precision where the model is in half precision, if it can be.
    """

    def __init__(self, model: nn.Module, task: Task, preflight: PreflightResult, *, clip_norm: float) -> None:
        self._model, self._task, self._clip_norm, self._precision = model, task, clip_norm, preflight.precision
        self._twin = deepcopy(model).to(preflight.precision) if preflight.precision else deepcopy(model)

    def compare(self, chunk: Batch | Sequence[Batch], found: Tensor, records: PerRecord) -> None:
        """Compare up to 16 records of a chunk.

        Args:
            chunk: a batch, or a batch of one row for each record.
            found: their losses, shape (n,).
            records: their gradients.

        Raises:
            TaskError: a loss or a gradient is not that of its record alone. It says nothing of the batch.
        """
        count = rows(chunk) if isinstance(chunk, dict) else len(chunk)
        chosen = list(range(0, count, -(-count // MOST)))
        ones = [
            {name: value[row : row + 1] for name, value in chunk.items()} if isinstance(chunk, dict) else chunk[row]
            for row in chosen
        ]
        ones = [prepared(one, self._twin, self._precision) for one in ones]
        with torch.no_grad():
            for of in (nn.Module.parameters, nn.Module.buffers):
                for mine, now in zip(of(self._twin), of(self._model), strict=True):
                    mine.copy_(now)
        losses, alone = by_loop(self._task, self._twin, ones)
        allowed = tolerance(found.dtype)
        if not torch.allclose(found[chosen].to(losses), losses, rtol=allowed, atol=allowed, equal_nan=True):
            raise _differs("loss")
        together = torch.cat([rows_of(gradient).double() for gradient in records.rows(chosen)], dim=1)
        right = torch.cat([rows_of(gradient).double() for gradient in alone], dim=1)
        norms, off = right.norm(dim=1), (together - right).norm(dim=1)
        # A gradient that is not finite counts as zero, if it is so in both.
        finite = right.isfinite().all(1) | together.isfinite().all(1)
        if not bool((off <= allowed * (norms + self._clip_norm))[finite].all()):
            raise _differs("gradient")


def refuse_other_sum(model: nn.Module, records: PerRecord, own: Sequence[Tensor | None], tolerance: float) -> Tensor:
    """Refuse gradients of single records whose sum is not autograd's own gradient of the sum of their losses.

    Returns:
        The records that hide it, bool of shape (n,): where the gradient of one is not finite, or too long for a sum,
        the parameter is not compared. Those that hide nothing are to be compared alone.

    Raises:
        TaskError: names the parameter.
    """
    hiding = torch.zeros(len(records), dtype=torch.bool)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    every = torch.ones(len(records), dtype=torch.float64)
    for name, part, found, right in zip(names, records.parts, records.totals(every), own, strict=True):
        norms = part.squares(exact=True).sqrt().cpu() if part else torch.zeros(len(records))
        # A record that is not finite makes both so, and counts as zero.
        hides = ~(norms < torch.finfo(found.dtype).max / len(records))
        hiding |= hides
        off = found.double() if right is None else found.double() - right.double()
        if not hides.any() and not off.norm() <= tolerance * norms.sum():
            raise NotRecordsError(f"the gradients of single records of {name} are not, together, that of the batch")
    return hiding


def _differs(what: str) -> TaskError:
    return TaskError(
        f"the model cannot be trained privately: in the first step of the round the {what} of a record in its batch is "
        "not that of the record alone, so that records are in the gradients of other records. The synthetic records of "
        "the preflight did not show it: look for branches that depend on values, and for layers that take some of the "
        "records only"
    )
