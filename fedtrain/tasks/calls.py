"""Call a task, and check that what it returns belongs to single records, and what its model has and shares.

Clipping bounds what a record does to the sum of the gradients. A tensor with another number of rows, or a loss of
several records, would let one record do more; so every trainer calls a task through these functions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedtrain.errors import ConfigError, TaskError
from fedtrain.tasks.base import Batch, Records, Task, trainable_names
from fedtrain.tasks.weights import names_of

# So many records of a batch have their loss computed again alone.
_ALONE = 16


def collate(task: Task, records: Records, generator: torch.Generator | None) -> Batch:
    """Return the batch of the records.

    Raises:
        TaskError: it is not a dict of tensors that each have a row for each record.
    """
    batch: object = task.collate(records, generator)
    if not isinstance(batch, dict) or not batch or not all(isinstance(value, Tensor) for value in batch.values()):
        raise TaskError("collate is to return a batch: a dict of tensors by name, and it returned something else")
    for name, value in batch.items():
        if value.ndim == 0 or len(value) != len(records):
            raise TaskError(f"collate returned {name!r} without one row for each record")
    return batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    return {name: value.to(device) for name, value in batch.items()}


def forward(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's outputs.

    Raises:
        TaskError: they are not a tensor with a row for each record.
    """
    outputs: object = task.forward(model, batch)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != rows(batch):
        raise TaskError("forward is to return one tensor with a row of outputs for each record, and did not")
    return outputs


def losses(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    """Return the loss of each record, shape (n,).

    Raises:
        TaskError: they are not one number for each record.
    """
    found: object = task.losses(outputs, batch)
    if not isinstance(found, Tensor) or found.shape != (rows(batch),) or not found.is_floating_point():
        kind = f"a tensor with {found.ndim} dimensions" if isinstance(found, Tensor) else type(found).__name__
        raise TaskError(
            f"losses is to return the loss of each record, floating point of shape (n,), and returned {kind}: leave "
            'the mean to the trainer, for example with cross_entropy(..., reduction="none"), and take the mean over '
            "the dimensions after the first yourself"
        )
    return found


def refuse_coupled_losses(task: Task, outputs: Tensor, batch: Batch, found: Tensor) -> None:
    """Refuse losses that are others when a record is alone: such a loss compares records, or divides by a sum of them.

    Args:
        task: the task.
        outputs: of the model, a row for each record.
        batch: what they were computed from.
        found: the losses of all records together, of which up to 16 are computed again.

    Raises:
        TaskError: a loss is not that of its record alone. It says nothing of the batch, which is private.
    """
    count = rows(batch)
    precision = torch.finfo(found.dtype).eps
    with torch.no_grad():
        for row in range(0, count, -(-count // _ALONE)):
            one = slice(row, row + 1)
            alone = losses(task, outputs[one], {name: value[one] for name, value in batch.items()})
            if not torch.allclose(alone, found[one], rtol=max(1e-4, 64 * precision), atol=1e-6, equal_nan=True):
                raise TaskError(
                    "the task cannot be trained privately: losses returns for a record in a batch another value than "
                    "for the record alone, so that records are in the gradients of other records. Compute each loss "
                    "from its own row, without statistics, weights or selections over the batch"
                )


def rows(batch: Batch) -> int:
    """Return the number of rows of a batch."""
    return len(next(iter(batch.values())))


def split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into parts of so many rows; the last may be smaller."""
    parts = {name: torch.split(value, size) for name, value in batch.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def shared_names(task: Task, model: nn.Module) -> frozenset[str]:
    """Return the names in the state dict that a task shares, each weight by the first of its names.

    Whatever sends, clips, adds noise, masks or digests goes by this set, and by no other.

    Raises:
        TaskError: the task names what is not trained, and so is neither clipped nor noised, or names nothing.
    """
    names = names_of(model)
    shared, trainable = frozenset(names.get(name, name) for name in task.shared(model)), trainable_names(model)
    if strange := sorted(shared - trainable):
        raise TaskError(
            f"the task shares {', '.join(strange[:3])}, which is no trainable parameter of its model: what is not "
            "trained is neither clipped nor noised, and is never sent; return names of trainable parameters from "
            "shared(model)"
        )
    if not shared:
        raise TaskError(
            "the task shares nothing: the model has no trainable parameter, or shared(model) names none; nothing "
            "would be learned"
        )
    return shared


def refuse_complex(model: nn.Module) -> None:
    """Return if all that is trained are real numbers, as privacy requires: noise is drawn for real numbers.

    Raises:
        TaskError: names a parameter that is complex.
    """
    for name, value in model.named_parameters():
        if value.requires_grad and value.is_complex():
            raise TaskError(
                f"the model cannot be trained privately: its parameter {name} is complex ({value.dtype}), and noise is "
                "for real numbers; keep the real and the imaginary part as a parameter each, and put them together in "
                "forward (torch.complex)"
            )


def refuse_batch_statistics(model: nn.Module) -> None:
    """Return if no layer of the model takes statistics over records, as training with record privacy requires.

    Refused are batch normalisation of every kind (also synchronised, lazy, and without running statistics), and
    instance normalisation with running statistics. Batch normalisation mixes the records of a batch, so that no
    record has a gradient of its own that could be clipped; and running statistics are sums over records that reach
    the released model neither clipped nor noised.

    Raises:
        TaskError: names each such layer and what to write instead.
    """
    lines = [
        f"  {path or 'the model itself'}: {_replacement(layer)}"
        for path, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
    ]
    if lines:
        raise TaskError(
            "the model cannot be trained with record privacy: it normalises with statistics over the records of a "
            "batch, which mix records, and its running statistics are neither clipped nor noised. Replace\n"
            + "\n".join(lines)
        )


def _replacement(layer: _BatchNorm | _InstanceNorm) -> str:
    """Write the layer and a normalisation with the same channels that uses one record at a time."""
    kind, channels = type(layer).__name__, layer.num_features
    if channels == 0:  # a lazy layer that has seen no input yet
        return f"{kind}() by nn.GroupNorm(groups, channels), where groups divides channels"
    # One channel in each group is instance normalisation.
    groups = channels if isinstance(layer, _InstanceNorm) else math.gcd(8, channels)
    return f"{kind}({channels}) by nn.GroupNorm({groups}, {channels})"


def resolve_device(name: str) -> torch.device:
    """Return the device that a configuration names; ``auto`` is the GPU where there is one.

    Raises:
        ConfigError: ``cuda`` on a machine without it.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            'device = "cuda" is not allowed: this machine has no GPU that torch can use; use "auto" or "cpu"'
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
