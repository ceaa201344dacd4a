"""From the replies of a round to the next model: what of a state dict is a strategy's business, and what is not.

A state dict has three parts.

- *Trained parameters* are aggregated by Flower's strategy, with whatever its optimizer at the server makes of them.
- *Statistics* are what clients count and do not train, such as the running mean and variance of batch normalisation.
  They are averaged with the weights of FedAvg. An optimizer's momentum would carry a variance below zero.
- *Constants* are what all clients return as it was sent: masks, seeds of hashes, frozen parameters. They stay as they
  are, bit for bit, also where they are not finite.

In a private mode only what is trained and shared ever changes: neither clipping nor noise covers anything else.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedtrain.config import Experiment
from fedtrain.config.sections import DISTANCES
from fedtrain.errors import RunError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import to_array, view
from fedtrain.privacy.clipping import bits_equal
from fedtrain.serverapp.assembly import build_strategy, remembered, remind
from fedtrain.serverapp.checkpoint import Arrays

_SINGLE = np.dtype(np.float32)


class Aggregation:
    """Has Flower's strategy aggregate what is trained, and keeps all else from it.

    The strategy sees arrays of half precision in single precision, and the result is rounded once. One that compares
    distances between clients sees their changes in double precision: in single precision the distance between two
    large models a small step apart is mostly rounding. Krum, MultiKrum and Bulyan commute with translations, so that
    the received model plus what they make of the changes is what they make of the models.
    """

    def __init__(self, experiment: Experiment, *, trained: frozenset[str], private: bool) -> None:
        """Build the strategy.

        Args:
            experiment: the experiment.
            trained: the names of what is trained and shared.
            private: whether all else is to stay as it was sent.
        """
        self.name = experiment.server.strategy
        self._strategy: FedAvg = build_strategy(experiment)
        self._trained = trained
        self._private = private

    def ask(
        self, number: int, model: Arrays, settings: ConfigRecord, grid: Grid, memory: Arrays
    ) -> tuple[ArrayRecord, list[Message]]:
        """Have the strategy write the messages of a round to all nodes of a grid.

        Args:
            number: the round, from 1.
            model: what is sent, all of it.
            settings: the server's; the strategy adds its own.
            grid: offers the nodes.
            memory: what the strategy is to remember.

        Returns:
            The model as it is sent, and the messages.
        """
        remind(self._strategy, self._of_trained(memory, list(model)))
        sent = self.as_sent(model)
        arrays = ArrayRecord()
        for name, value in model.items():
            if name in self._trained:
                shown = self._shown(value, value)
                arrays[name] = sent[name] if shown is value else to_array(shown)
        messages = list(self._strategy.configure_train(number, arrays, settings, grid))
        content: dict[int, RecordDict] = {}
        for message in messages:
            # Strategies put one content into all messages; they go on sharing one.
            before = message.content
            content.setdefault(id(before), RecordDict({**before, protocol.ARRAYS: sent}))
            message.content = content[id(before)]
        return sent, messages

    def aggregate(self, number: int, model: Arrays, replies: Sequence[Message]) -> tuple[Arrays, Arrays]:
        """Return the next model, in the types of the one that was sent, and what the strategy remembers.

        Where it can be, the model is what the strategy wrote to be sent, and not a copy of it: it is read-only.

        Args:
            number: the round.
            model: what was sent.
            replies: as the checks let them pass, errors among them.

        Raises:
            RunError: the strategy fails, gives no model, or one that is not finite.
        """
        found = self._by_strategy(number, model, replies)
        contents = [reply.content for reply in replies if not reply.has_error()]
        returned = [next(iter(content.array_records.values())) for content in contents]
        weights = [float(next(iter(content.metric_records.values()))[protocol.WEIGHT]) for content in contents]  # type: ignore[arg-type]
        after: Arrays = {}
        for name, before in model.items():
            if name in found:
                value = view(name, found[name])
                after[name] = self._taken(before, value)
            elif self._private or not returned:
                after[name] = before
            else:
                after[name] = counted(before, [view(name, arrays[name]) for arrays in returned], weights)
            finite = np.isfinite(after[name])
            if not finite.all() and not (finite | bits_equal(after[name], before)).all():
                raise RunError(f"{self.name} made {name} not finite in round {number}; lower the learning rates")
        return after, remembered(self._strategy)

    def _by_strategy(self, number: int, model: Arrays, replies: Iterable[Message]) -> ArrayRecord:
        shown = [reply if reply.has_error() else self._reply(model, reply) for reply in replies]
        try:
            arrays, _ = self._strategy.aggregate_train(number, shown)
        except (AppExitException, ValueError, TypeError, ArithmeticError) as error:
            raise RunError(f"{self.name} cannot aggregate round {number}: {error}") from error
        if arrays is None:
            raise RunError(f"{self.name} gave no model in round {number}")
        return arrays

    def as_sent(self, model: Arrays) -> ArrayRecord:
        """Return a model as it is sent, without writing anew what the strategy wrote."""
        return ArrayRecord({name: to_array(value) for name, value in model.items()})

    def _reply(self, model: Arrays, reply: Message) -> Message:
        """Return a reply with what the strategy is shown of its arrays."""
        records = reply.content.array_records
        name, arrays = next(iter(records.items()))
        shown = ArrayRecord()
        for key, before in model.items():
            if key in self._trained:
                value = view(key, arrays[key])
                seen = self._shown(value, before)
                shown[key] = arrays[key] if seen is value else to_array(seen)
        content = RecordDict({name: shown, **reply.content.metric_records})
        return Message(content, reply.metadata.dst_node_id, reply.metadata.message_type)

    def _shown(self, value: NDArray[np.generic], before: NDArray[np.generic]) -> NDArray[np.generic]:
        if self.name in DISTANCES:
            return np.asarray(np.subtract(value, before, dtype=np.result_type(value.dtype, np.float64)))
        return value.astype(_SINGLE) if _is_half(value.dtype) else value

    def _taken(self, before: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.generic]:
        with np.errstate(over="ignore"):  # what is not finite is refused by name
            if self.name in DISTANCES:
                return np.asarray(np.add(before, found), dtype=before.dtype)
            return np.asarray(found, dtype=before.dtype)

    def _of_trained(self, memory: Arrays, order: list[str]) -> Arrays:
        """Return what is remembered of trained parameters: earlier versions remembered all of the model.

        Momentum by place in the model becomes momentum by place among what is trained.
        """
        places = [place for place, name in enumerate(order) if name in self._trained]
        listed = sum(key.startswith("momentum_vector/") for key in memory)
        renamed = {f"momentum_vector/{place}": f"momentum_vector/{new}" for new, place in enumerate(places)}
        kept: Arrays = {}
        for key, value in memory.items():
            kind, _, name = key.partition("/")
            if kind != "momentum_vector":
                if name in self._trained:
                    kept[key] = value
            elif listed != len(order):
                kept[key] = value
            elif key in renamed:
                kept[renamed[key]] = value
        return kept


def _is_half(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" and dtype.itemsize < _SINGLE.itemsize


def counted(
    sent: NDArray[np.generic], returned: Sequence[NDArray[np.generic]], weights: Sequence[float]
) -> NDArray[np.generic]:
    """Return an array that is not trained: a constant as it was sent, and the weighted mean of a statistic.

    A number that all return as it was sent stays so, bit for bit. Of all others, floating ones get the weighted mean,
    computed in double precision and rounded once; whole ones move by the weighted mean of their changes, rounded to the
    nearest, so that large ones lose no digit; booleans get the weighted majority, and true where there is none.

    Args:
        sent: as it was sent, of any shape and dtype.
        returned: what clients returned, each with that shape and dtype; at least one.
        weights: the weight of each, above 0.

    >>> counted(np.array([2**53 + 1, 10]), [np.array([2**53 + 1, 14]), np.array([2**53 + 1, 12])], [1.0, 1.0])
    array([9007199254740993,              13])
    """
    constant = np.logical_and.reduce([bits_equal(sent, value) for value in returned])
    if constant.all():
        return sent
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    with np.errstate(invalid="ignore", over="ignore"):  # of numbers that are not finite and stay as they were sent
        if sent.dtype.kind in "iu":
            start = sent.astype(np.int64)
            change = sum(
                share * (value.astype(np.int64) - start) for share, value in zip(shares, returned, strict=True)
            )
            mean = (start + np.rint(change).astype(np.int64)).astype(sent.dtype)
        elif sent.dtype.kind == "b":
            mean = np.asarray(sum(share * value for share, value in zip(shares, returned, strict=True))) >= 0.5  # noqa: PLR2004
        else:
            wide = np.complex128 if sent.dtype.kind == "c" else np.float64
            total = sum(share * value.astype(wide) for share, value in zip(shares, returned, strict=True))
            mean = np.asarray(total, dtype=sent.dtype)
    return np.where(constant, sent, mean)
