"""Several clients train at once, each on batches of its own: the `Trainer` for many small models.

Most of a step of a small model goes into calling operations, not into what they compute. So each trained parameter of
K clients is one tensor of shape (K, *parameter), and ``torch.func.vmap`` computes the losses of K batches in as many
calls as those of one. What a client draws is drawn for it alone, from its own seed: its batches, and how they are
augmented. The optimizer treats each number by itself. So a client gets the weights that it gets alone, but for
rounding, which may depend on the clients beside it: a private client never trains so.

- Batches are stacked where they have the same shapes; a batch like few others is computed by itself.
- `why_not_stacked` tries a model on synthetic records beside `PlainTrainer`. What vmap cannot map, and what draws at
  random or changes buffers, trains one client after another.
- What fails for several clients is done again for each alone, so that only those fail whose records or weights do. So
  is what draws at random, or changes what is not trained, with some records only, or after many steps.
- Where a device has no memory for K clients, they are trained in two halves, and so are those after them.
"""

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from fedtrain.config import Training
from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.tasks import Batch, Records, Task
from fedtrain.tasks.calls import to_device
from fedtrain.training.case import VALUES, moved_copy, synthetic
from fedtrain.training.gradients import Pipeline, trainable
from fedtrain.training.steps import (
    LocalOptimizer,
    PlainTrainer,
    RoundSettings,
    add_proximal_gradient,
    collated_batches,
    seed_layers,
)

FEWEST: Final = 4
"""Of so many batches one call is about as fast as one call after another, on a CPU; of fewer it is slower."""

Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one client trains.

    Attributes:
        model: its own model, which is trained in place.
        records: what it is trained on.
        settings: of the round.
    """

    model: nn.Module
    records: Records
    settings: RoundSettings


@dataclass(kw_only=True)
class Room:
    """How many clients a device has had no memory for.

    Attributes:
        most: clients that may train at once; ``None`` for any number.
    """

    most: int | None = None


@dataclass(frozen=True, kw_only=True)
class StackedTrainer:
    """Steps of several clients at once, without privacy.

    Attributes:
        config: how to train.
        why_not: why the model trains one client after another, if it does (`why_not_stacked`).
        room: what is known of the memory; kept from round to round, it is found out once.
        fewest: batches of the same shapes that are computed at once; fewer are computed one after another.
    """

    config: Training
    why_not: str = ""
    room: Room = field(default_factory=Room)
    fewest: int = FEWEST

    def train(self, model: nn.Module, task: Task, records: Records, settings: RoundSettings) -> float:
        """Train the model in place on the records and return the mean loss over the batches."""
        return PlainTrainer(config=self.config).train(model, task, records, settings)

    def train_many(self, task: Task, parts: Sequence[Part]) -> list[float | BaseException]:
        """Train the models of clients in place, and return for each the mean loss over its batches, or what it raised.

        The same parts in the same order give the same weights, bit for bit.
        """
        if self.why_not or not _alike(parts):
            return [self._alone(task, part) for part in parts]
        return self._fitting(task, parts)

    def _fitting(self, task: Task, parts: Sequence[Part]) -> list[float | BaseException]:
        """Train as many clients at once as there is memory for, and each alone where something else fails."""
        count = -(-len(parts) // (self.room.most or len(parts)))
        if count > 1:
            cuts = [len(parts) * cut // count for cut in range(count + 1)]
            return [result for start, end in pairwise(cuts) for result in self._fitting(task, parts[start:end])]
        if len(parts) >= self.fewest:
            try:
                return [*_Stack(self.config, task, parts, fewest=self.fewest).train()]
            except torch.OutOfMemoryError:
                self.room.most = -(-len(parts) // 2)
            except (Exception, SystemExit):  # noqa: BLE001 - it is raised again for the client that it is of
                return [self._alone(task, part) for part in parts]
            return self._fitting(task, parts)
        return [self._alone(task, part) for part in parts]

    def _alone(self, task: Task, part: Part) -> float | BaseException:
        seed_layers(part.settings.seed)
        try:
            return self.train(part.model, task, part.records, part.settings)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the answer of this client
            return error


def _alike(parts: Sequence[Part]) -> bool:
    """Return whether clients differ in nothing but their records, their seeds and what they train."""
    first = parts[0]
    kept = _kept(first.model)
    return all(
        part.settings.learning_rate == first.settings.learning_rate
        and part.settings.proximal_mu == first.settings.proximal_mu
        and all(torch.equal(a, b) for a, b in zip(_kept(part.model), kept, strict=True))
        for part in parts[1:]
    )


def _kept(model: nn.Module) -> list[Tensor]:
    """Return what is not trained."""
    return [*(value for value in model.parameters() if not value.requires_grad), *model.buffers()]


@dataclass(frozen=True, kw_only=True)
class _Before:
    """What training must leave as it was, where several clients share a model while they train."""

    generators: list[Tensor]
    kept: list[Tensor]
    noted: object
    held: dict[int, object]  # what was looked at, so that nothing new gets the identity of one of them

    @classmethod
    def of(cls, model: nn.Module) -> "_Before":
        """Note it of a model that is in training mode."""
        held: dict[int, object] = {}
        kept = [value.detach().clone() for value in _kept(model)]
        return cls(generators=_states(model), kept=kept, noted=_noted(model, held), held=held)

    def unlike(self, model: nn.Module) -> str:
        """Return what has changed, in words; empty if nothing has."""
        if not _same(self.generators, _states(model)):
            return "it draws at random by torch's own generator, as dropout does, and clients draw each by itself"
        if not _same(self.kept, _kept(model)):
            return "it changes what is not trained, as batch normalisation does"
        if self.noted != _noted(model, {}):
            return "it notes something in its attributes while it trains, and clients note each by itself"
        return ""


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def _noted(value: object, held: dict[int, object]) -> object:
    """Return what stays equal while nothing is written into an object or what it holds, but for weights and buffers.

    Args:
        value: the object.
        held: those that were looked at, by identity: they may hold each other.
    """
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return value
    if id(value) in held or isinstance(value, nn.Parameter | type):
        return id(value)
    held[id(value)] = value
    if isinstance(value, Tensor):
        return (id(value), value._version)  # noqa: SLF001 -- torch has no other count
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return (id(value), value.tobytes())
    parts: list[object] = [id(value)]
    if isinstance(value, Mapping):
        parts += [(_noted(key, held), _noted(each, held)) for key, each in value.items()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts += [_noted(each, held) for each in value]
    not_noted = {"_parameters", "_buffers"} if isinstance(value, nn.Module) else set[str]()
    own = getattr(value, "__dict__", {})
    parts += [(name, _noted(each, held)) for name, each in own.items() if name not in not_noted]
    return parts


class _Stack:
    """The models of several clients as one: a row for each client in each trained parameter."""

    def __init__(self, config: Training, task: Task, parts: Sequence[Part], *, fewest: int) -> None:
        self._parts, self._fewest, settings = parts, fewest, parts[0].settings
        # A copy: whatever a model notes in its attributes, the clients' own have nothing of it where this fails.
        self._pipeline = Pipeline(task, deepcopy(parts[0].model).train())
        self._names = [name for name, value in self._pipeline.named_parameters() if value.requires_grad]
        rows = zip(*(trainable(part.model) for part in parts), strict=True)
        stacked = nn.ParameterList([nn.Parameter(torch.stack([row.detach() for row in each])) for each in rows])
        self._optimizer = LocalOptimizer(config, stacked, settings.learning_rate)
        self._parameters, self._mu = self._optimizer.parameters, settings.proximal_mu
        self._received = [value.detach().clone() for value in self._parameters] if self._mu else []
        self._batches = [collated_batches(task, part.records, config, part.settings.seed) for part in parts]
        self._before = _Before.of(self._pipeline.model)

    def train(self) -> list[float]:
        """Train until the last client has done its steps, write the weights of all, and return their mean losses.

        A client that is done goes on without gradients until all are, and what it had when it was done is kept.

        Raises:
            TaskError: the model drew at random, or changed what is not trained, which is each client's own; nothing is
                written.
        """
        trained: dict[int, list[Tensor]] = {}
        losses: list[list[Tensor]] = [[] for _ in self._parts]
        while drawn := self._drawn(trained):
            for place, loss in self._step(drawn).items():
                losses[place].append(loss)
        if reason := self._before.unlike(self._pipeline.model):
            raise TaskError(reason)
        with torch.no_grad():
            for place, part in enumerate(self._parts):
                for own, row in zip(trainable(part.model), trained[place], strict=True):
                    own.copy_(row)
        return [float(sum(each)) / len(each) for each in losses]

    def _drawn(self, trained: dict[int, list[Tensor]]) -> dict[int, Batch]:
        """Return the next batch of each client that has one, and keep the weights of those that have none any more."""
        drawn = {}
        for place, batches in enumerate(self._batches):
            if place in trained:
                continue
            batch = next(batches, None)
            if batch is None:
                trained[place] = [value.detach()[place].clone() for value in self._parameters]
            else:
                drawn[place] = batch
        return drawn

    def _step(self, drawn: Mapping[int, Batch]) -> dict[int, Tensor]:
        """Take a step, and return the mean loss of each client's batch."""
        groups, losses, lines = self._by_shapes(drawn), dict[int, Tensor](), []
        for places in groups:
            found, gradients = self._gradients(places, [drawn[place] for place in places])
            losses.update(zip(places, found, strict=True))
            lines.append(gradients)
        for parameter, *of_groups in zip(self._parameters, *lines, strict=True):
            parameter.grad = self._placed(parameter, groups, of_groups)
        if self._mu:
            add_proximal_gradient(self._parameters, self._received, self._mu)
        self._optimizer.step()
        return losses

    def _by_shapes(self, drawn: Mapping[int, Batch]) -> list[list[int]]:
        """Return clients whose batches are computed at once, the others each by itself."""
        alike: dict[Shapes, list[int]] = {}
        for place, batch in drawn.items():
            shapes = tuple((name, value.shape, value.dtype) for name, value in batch.items())
            alike.setdefault(shapes, []).append(place)
        many = [places for places in alike.values() if len(places) >= self._fewest]
        return [*many, *([place] for places in alike.values() if places not in many for place in places)]

    def _gradients(self, places: list[int], batches: Sequence[Batch]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the mean losses of batches, shape (k,), and the gradients of each, of shape (k, *parameter).

        A parameter on which no loss depends has no gradient.
        """
        every = len(places) == len(self._parts)
        rows = [(value.detach() if every else value.detach()[places]).requires_grad_() for value in self._parameters]
        device = rows[0].device
        batch = to_device({name: torch.stack([each[name] for each in batches]) for name in batches[0]}, device)

        def mean_loss(weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
            return self._pipeline.with_weights(weights, batch).mean()

        weights = dict(zip(self._names, rows, strict=True))
        if len(places) == 1:
            one = {name: value[0] for name, value in weights.items()}
            losses = mean_loss(one, {name: value[0] for name, value in batch.items()}).unsqueeze(0)
        else:
            losses = vmap(mean_loss, randomness="error")(weights, batch)
        return losses.detach(), [*torch.autograd.grad(losses.sum(), rows, allow_unused=True)]

    def _placed(
        self, parameter: Tensor, places: Sequence[list[int]], gradients: Sequence[Tensor | None]
    ) -> Tensor | None:
        """Return the gradient of all rows of a parameter, with zeros for clients that are done."""
        if len(places[0]) == len(self._parts) or all(each is None for each in gradients):
            return gradients[0]
        whole = torch.zeros_like(parameter)
        for rows, gradient in zip(places, gradients, strict=True):
            if gradient is None:  # the optimizer passes over it, and not over zeros: each client trains alone then
                raise TaskError("the losses of some clients depend on a parameter, and those of others do not")
            whole[rows] = gradient
        return whole


# Clients of the trial: the batches of two are always alike, and each has another number of steps or of records.
_RECORDS, _BATCH, _RATE = (4, 5, 8), 2, 0.01
_TOLERANCE = 1e-3  # of the change of the weights, in single precision


def why_not_stacked(model: nn.Module, task: Task, info: DataInfo) -> str:
    """Return why clients train a model one after another, in words; empty where they can train at once.

    Three clients with weights and synthetic records of their own train at once, and each alone, by steps of SGD with
    momentum. The model stays as it is, and torch's generators, too.

    Args:
        model: the model, on the device where it is trained.
        task: its task.
        info: the schema of the records.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    if any(not value.is_floating_point() or value.itemsize < torch.float32.itemsize for value in trainable(model)):
        return "its weights are not all numbers of single or double precision"
    reason = ""
    with torch.random.fork_rng([*devices]), warnings.catch_warnings():
        # An operation without a rule of its own is computed for one client after another.
        warnings.filterwarnings("error", message="There is a performance drop")
        for values in VALUES if info.kind in {"table", "encoded"} else VALUES[:1]:
            try:
                reason = _tried(model, task, synthetic(info, sum(_RECORDS), values=values))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever vmap, or the code of a task, raises
                reason = f"{type(error).__name__}: {error}"
            if not reason:
                break
    return reason


def _tried(model: nn.Module, task: Task, records: Records) -> str:
    """Return in what training at once differs from training alone."""
    config = Training(batch_size=_BATCH, momentum=0.5)
    parts, start, own = [], 0, model
    for number, count in enumerate(_RECORDS):
        own = moved_copy(own)
        settings = RoundSettings(learning_rate=_RATE, proximal_mu=0.1, seed=number)
        parts.append(Part(model=own, records=records.take(slice(start, start + count)), settings=settings))
        start += count
    alone = [replace(part, model=deepcopy(part.model)) for part in parts]
    untouched = [_Before.of(each.model.train()) for each in alone]
    losses = [PlainTrainer(config=config).train(each.model, task, each.records, each.settings) for each in alone]
    for each, before in zip(alone, untouched, strict=True):
        if reason := before.unlike(each.model):
            return reason
    received = [[value.detach().clone() for value in trainable(part.model)] for part in parts]
    found = _Stack(config, task, parts, fewest=2).train()
    if not torch.tensor(losses).isfinite().all():
        return "its losses on synthetic records are not finite"
    if not torch.allclose(torch.tensor(found), torch.tensor(losses), rtol=_TOLERANCE, atol=_TOLERANCE):
        return "its losses are others where clients train at once"
    for weights, one, other in zip(received, parts, alone, strict=True):
        for was, at_once, right in zip(weights, trainable(one.model), trainable(other.model), strict=True):
            # Written so that a NaN differs.
            if not bool((at_once - right).norm() <= _TOLERANCE * (right - was).norm() + 1e-7 * right.norm()):
                return "its weights are others where clients train at once"
    return ""


def _states(model: nn.Module) -> list[Tensor]:
    """Return the states of the generators that a model on its device may draw from."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
