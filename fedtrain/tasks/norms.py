"""Refuse the layers that take statistics over the records of a batch."""

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedtrain.errors import TaskError


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
