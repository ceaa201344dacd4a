"""The fastest way to gradients of single records: one backward pass, and a book of what each layer took and made.

Book-keeping (Bu et al. 2023, "Differentially private optimization on large model at small cost"): hooks note what each
layer takes, the backward pass computes the gradients of what the layers made and of no weight, and
`fedtrain.training.layers` makes of both what private training needs: norms, and one weighted sum over the records.

A formula assumes that the first dimension of what its layer takes is the record, and that a weight is used in its layer
alone. `fedtrain.training.preflight` tries whether it is so; the rows of all calls are watched in every step.

Example::

    with bookkeeping(model) as book:
        losses, records = book(task, batch)
        sums = records.clipped(1.0)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedtrain.tasks import Batch, Task
from fedtrain.tasks.calls import forward, losses, rows
from fedtrain.training.contributions import Contribution, added
from fedtrain.training.gradients import NotRecordsError, not_records, trainable
from fedtrain.training.layers import Found, by_replay, formula_of, tensors_of
from fedtrain.training.perrecord import PerRecord
from fedtrain.training.sequences import replacement
from fedtrain.training.steps import fast_layout


@dataclass(frozen=True, kw_only=True, eq=False)
class _Call:
    """A call of a layer.

    Attributes:
        layer: its name and kind, for errors.
        taken: the tensors that it took, each with torch's count of writes.
        edges: where the gradient of each tensor that it made arrives; ``None`` for those without.
        contribute: from these gradients to contributions.
    """

    layer: str
    taken: Sequence[tuple[Tensor, int]]
    edges: Sequence[GradientEdge | None]
    contribute: Callable[[Sequence[Tensor | None]], Found]


class Book:
    """A model whose layers are watched.

    Attributes:
        outputs: of the last call of the model.
        own: autograd's own gradients of the sum of the losses, where they were asked for.
        with_weights: whether they are asked for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = trainable(model)
        self._rows = 0
        self._calls: list[_Call] | None = None
        self._names = {layer: name for name, layer in model.named_modules()}
        self.with_weights = False
        self.outputs: Tensor | None = None
        self.own: Sequence[Tensor | None] = []

    def __call__(self, task: Task, batch: Batch, *, own: bool = False) -> tuple[Tensor, PerRecord]:
        """Return the losses (n,) and the gradients of a batch of n rows.

        Args:
            task: what to train.
            batch: the rows.
            own: also compute autograd's own gradients of the sum of the losses.

        Raises:
            TaskError: a layer was called with other rows than those of the batch, or what it took was written after it.
                It says nothing of the batch, whose size is private.
        """
        self._rows, self._calls, self.with_weights = rows(batch), [], own
        try:
            self.outputs = forward(task, self._model, batch)
            found = losses(task, self.outputs, batch)
        finally:
            calls, self._calls = self._calls, None
        edges = [edge for call in calls for edge in call.edges if edge]
        asked = [*edges, *(self._parameters if own else ())]
        gradients = list(torch.autograd.grad(found.sum(), asked, allow_unused=True)) if asked else []
        self.own = gradients[len(edges) :]
        arrived = iter(gradients)
        parts: dict[Tensor, list[Contribution]] = {parameter: [] for parameter in self._parameters}
        for call in calls:
            arrivals = [next(arrived) if edge else None for edge in call.edges]
            if any(value._version != count for value, count in call.taken):  # noqa: SLF001 -- torch has no other count
                raise NotRecordsError(f"what its layer {call.layer} takes is written after it")
            if any(arrival is not None for arrival in arrivals):
                for parameter, part in call.contribute(arrivals):
                    parts[parameter].append(part)
        sums = [added(each) if each else None for each in parts.values()]
        return found.detach(), PerRecord(self._parameters, sums, self._rows)

    def note(self, layer: nn.Module, taken: tuple[Any, ...], keywords: dict[str, Any], made: Any) -> None:
        """Note a call of a layer, unless it is computed again."""
        inputs = tensors_of((taken, keywords))
        formula = formula_of(layer)
        contribute: Callable[[Sequence[Tensor | None]], Found]
        if formula and len(inputs) == 1:
            value = inputs[0].detach()
            contribute = lambda arrivals: formula(layer, value, _only(arrivals))  # noqa: E731
        else:
            contribute = partial(by_replay, layer, _detached(taken), _detached(keywords))
        self._note(layer, inputs, tensors_of(made), contribute)

    def note_part(
        self, layer: nn.Module, taken: Tensor, made: Tensor, contribute: Callable[[Tensor], Found], *, records: int = 0
    ) -> None:
        """Note a part of a layer, as `fedtrain.training.sequences` runs it."""
        self._note(layer, [taken], [made], lambda arrivals: contribute(_only(arrivals)), records=records)

    def _note(
        self,
        layer: nn.Module,
        taken: Sequence[Tensor],
        made: Sequence[Tensor],
        contribute: Callable[[Sequence[Tensor | None]], Found],
        *,
        records: int = 0,
    ) -> None:
        if self._calls is None:
            return
        called = f"{self._names[layer] or 'itself'} ({type(layer).__name__})"
        if any(value.ndim <= records or value.shape[records] != self._rows for value in (*taken, *made)):
            raise NotRecordsError(not_records(called, taken))
        self._calls.append(
            _Call(
                layer=called,
                taken=[(value, value._version) for value in taken],  # noqa: SLF001 -- torch has no other count
                edges=[get_gradient_edge(value) if value.requires_grad else None for value in made],
                contribute=contribute,
            )
        )


def _only(arrivals: Sequence[Tensor | None]) -> Tensor:
    (arrival,) = arrivals
    assert arrival is not None
    return arrival


def _detached(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _detached(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(each) for each in value)
    return value.detach() if isinstance(value, Tensor) else value


@contextmanager
def bookkeeping(model: nn.Module) -> Iterator[Book]:
    """Watch the layers of the model that are trained, and leave it as a plain module again, also after a failure.

    Meanwhile weights may be kept in the layout in which they are faster, also while a preflight tries the formulas.
    """
    book, hooks, replaced = Book(model), [], []
    for layer in model.modules():
        if not any(parameter.requires_grad for parameter in layer.parameters()):
            continue
        if (forward := replacement(layer, book)) is not None:
            layer.forward = forward
            replaced.append(layer)
        elif any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            hooks.append(layer.register_forward_hook(book.note, with_kwargs=True))
    try:
        with fast_layout(model):
            yield book
    finally:
        book.outputs, book.own = None, []
        for hook in hooks:
            hook.remove()
        for layer in replaced:
            del vars(layer)["forward"]
