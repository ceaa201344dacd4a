"""Records that nobody has: drawn from the public schema, to try a model before a budget is touched."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from fedtrain.data.types import Columns, DataInfo, Image
from fedtrain.tasks import Records

_PIXELS = 256
# Records of several lengths take more of a model's branches than records of one.
_SCALES = (1.0, 3.0, 0.3, 1.0, 0.1)

_COLUMNS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": lambda shape, draw: torch.randn(shape, generator=draw) * _scales(shape),
    "positive": lambda shape, draw: torch.rand(shape, generator=draw) * 0.9 + 0.1,
    # Numbers that stand for categories or tokens: every vocabulary has a 0 and a 1.
    "whole": lambda shape, draw: _starting_with_one(torch.randint(2, shape, generator=draw).to(torch.float32)),
}
VALUES: Final = tuple(_COLUMNS)
"""What the numbers of a table are tried as, in this order: a model may take the logarithm of them, or look them up."""


def synthetic(info: DataInfo, count: int, *, values: str) -> Records:
    """Return records of a schema, the same at every call.

    Args:
        info: the schema.
        count: how many.
        values: one of `VALUES`; it decides nothing where features are pixels.
    """
    draw = torch.Generator().manual_seed(0)
    shape = (count, *info.shape)
    match info.features:
        case Image():
            features = torch.randint(_PIXELS, shape, generator=draw).to(torch.uint8)
        case Columns():
            features = _COLUMNS[values](shape, draw)
    match info.target.kind:
        case "class":
            targets = torch.randint(max(1, len(info.classes)), (count,), generator=draw)
        case "number":
            targets = torch.randn(count, generator=draw)
        case "labels":
            targets = torch.randint(2, (count, len(info.classes)), generator=draw).to(torch.uint8)
    return Records(features=features, targets=targets)


def _scales(shape: tuple[int, ...]) -> Tensor:
    scales = torch.tensor(_SCALES).repeat(-(-shape[0] // len(_SCALES)))[: shape[0]]
    return scales.reshape(-1, *(1 for _ in shape[1:]))


def _starting_with_one(values: Tensor) -> Tensor:
    if values[0].numel():
        values.flatten(1)[:, 0] = 1
    return values
