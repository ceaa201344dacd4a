"""The gradients of single records, between the backward pass and clipping.

Each trainable parameter holds them as ``grad_sample``, shape (rows, *parameter). A row is one view of one record, and
the views of a record are next to each other.
"""

import torch
from torch import Tensor, nn

from fedtrain.tasks import Batch, Records, Task
from fedtrain.tasks.calls import collate


def collate_views(task: Task, records: Records, generator: torch.Generator | None, views: int) -> Batch:
    """Return a batch with each record ``views`` times, each time augmented anew: n * views rows, records outermost."""
    if views == 1:
        return collate(task, records, generator)
    drawn = [collate(task, records, generator) for _ in range(views)]
    return {name: torch.stack([batch[name] for batch in drawn], dim=1).flatten(0, 1) for name in drawn[0]}


def rows_of(gradient: Tensor) -> Tensor:
    """Return the gradients of a parameter as a matrix with a row for each row of the batch, which may be empty."""
    return gradient.reshape(len(gradient), gradient.shape[1:].numel())


def average_views(parameters: list[nn.Parameter], views: int) -> None:
    """Put the mean over the views of each record in the place of their gradients (De et al. 2022, section 3.2).

    It comes before clipping, so that a record has one gradient to clip, and the sensitivity is that of one view.
    """
    if views == 1:
        return
    for parameter in parameters:
        gradient: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
        by_record = gradient.reshape(len(gradient) // views, views, *parameter.shape)
        parameter.grad_sample = by_record.mean(1)  # type: ignore[attr-defined]


def silence_non_finite(parameters: list[nn.Parameter]) -> None:
    """Set the whole gradient of each record to zero that has a value in it which is not finite.

    The norm of such a record is not a number, so clipping would pass it on and one record could turn all weights into
    NaN. A view that is not finite has made the mean over its record's views so.
    """
    gradients: list[Tensor] = [parameter.grad_sample for parameter in parameters]  # type: ignore[attr-defined]
    finite = torch.stack([rows_of(gradient).isfinite().all(1) for gradient in gradients]).all(0)
    if not finite.all():
        for gradient in gradients:
            gradient[~finite] = 0.0
