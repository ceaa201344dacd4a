"""Some records of the first batch of a round again, each alone: what a model does with some records only shows there.

Synthetic records do not take every branch of a model. What is refused here says that the records take one that mixes
them, and nothing else of the batch.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Final

import torch
from torch import Tensor, nn

from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, Task
from fedtrain.tasks.calls import rows
from fedtrain.training.alone import Gradients, by_loop
from fedtrain.training.case import prepared
from fedtrain.training.gradients import rows_of
from fedtrain.training.preflight import Proof

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

    def __init__(self, model: nn.Module, task: Task, proof: Proof, *, clip_norm: float) -> None:
        self._model, self._task, self._clip_norm, self._precision = model, task, clip_norm, proof.precision
        self._twin = deepcopy(model).to(proof.precision) if proof.precision else deepcopy(model)

    def compare(self, chunk: Batch | Sequence[Batch], found: Tensor, gradients: Gradients) -> None:
        """Compare up to 16 records of a chunk.

        Args:
            chunk: a batch, or a batch of one row for each record.
            found: their losses, shape (n,).
            gradients: of n records.

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
        together = torch.cat([rows_of(gradient[chosen]).double() for gradient in gradients], dim=1)
        right = torch.cat([rows_of(gradient).double() for gradient in alone], dim=1)
        norms, off = right.norm(dim=1), (together - right).norm(dim=1)
        # A gradient that is not finite counts as zero, if it is so in both.
        finite = right.isfinite().all(1) | together.isfinite().all(1)
        if not bool((off <= allowed * (norms + self._clip_norm))[finite].all()):
            raise _differs("gradient")


def _differs(what: str) -> TaskError:
    return TaskError(
        f"the model cannot be trained privately: in the first step of the round the {what} of a record in its batch is "
        "not that of the record alone, so that records are in the gradients of other records. The synthetic records of "
        "the preflight did not show it: look for branches that depend on values, and for layers that take some of the "
        "records only"
    )
