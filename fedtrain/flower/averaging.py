"""The mean of FedAvg in blocks that a processor's cache holds: the numbers of Flower's, bit for bit, in less memory.

Flower multiplies whole models, adds them up, and writes the mean twice. Here a block of all models is multiplied and
added after the other, in the same order, and written once, as bytes that are sent. Each number is made by the same two
operations.

It takes no reply before all are there: the weight of each is divided by the sum of all weights first, and what a number
becomes when it is multiplied by that share cannot be had from another share.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from fedtrain.errors import TransportError
from fedtrain.flower.messages.records import array_of_parts, view

# Numbers that are multiplied and added at once.
_BLOCK = 1 << 16


class InBlocks(FedAvg):
    """FedAvg that takes the mean of arrays in blocks."""

    def aggregate_train(
        self,
        server_round: int,  # noqa: ARG002 - of the strategy's interface
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Do as FedAvg does, with `weighted_mean`."""
        usable, _ = self._check_and_log_replies(replies, is_train=True)
        if not usable:
            return None, None
        contents = [message.content for message in usable]
        arrays = weighted_mean(contents, self.weighted_by_key)
        return arrays, self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def in_blocks(strategy: type[FedAvg]) -> type[FedAvg]:
    """Return a strategy by the same name, whose FedAvg is that of `InBlocks`.

    What aggregates by itself, as robust strategies and a user's own do, gets all replies as before.
    """
    bases = (InBlocks,) if strategy is FedAvg else (strategy, InBlocks)
    return type(strategy.__name__, bases, {"__doc__": strategy.__doc__})


def weighted_mean(contents: Sequence[RecordDict], weighted_by: str) -> ArrayRecord:
    """Return the mean of the arrays of replies, each weighted by a metric: what Flower's FedAvg makes of them.

    Args:
        contents: of the replies, at least one, each with one record of arrays by the same names and one of metrics.
        weighted_by: the metric.
    """
    weights: list[Any] = [next(iter(content.metric_records.values()))[weighted_by] for content in contents]
    total = sum(weights)
    shares = [weight / total for weight in weights]
    records = [next(iter(content.array_records.values())) for content in contents]
    mean = ArrayRecord()
    for name in records[0]:
        values = [_plain(record[name]) for record in records]
        found = [value for value in values if value is not None]
        if len(found) < len(values) or len({(value.shape, value.dtype) for value in found}) > 1:
            return aggregate_arrayrecords(list(contents), weighted_by)
        mean[name] = _mean(found, shares)
    return mean


def _plain(array: Array) -> NDArray[Any] | None:
    """Return the values of an array where they are; ``None`` where they are no floating numbers in C order."""
    try:
        value = view("", array)
    except TransportError:
        return None
    return value if value.dtype.kind in "fc" and value.dtype.isnative and value.flags.c_contiguous else None


def _mean(values: Sequence[NDArray[Any]], shares: Sequence[float]) -> Array:
    blocks = _blocks([value.reshape(-1) for value in values], shares)
    return array_of_parts(values[0].dtype, values[0].shape, blocks)


def _blocks(flat: Sequence[NDArray[Any]], shares: Sequence[float]) -> Iterator[NDArray[Any]]:
    size, dtype = flat[0].size, flat[0].dtype
    added, scaled = np.empty(min(size, _BLOCK), dtype), np.empty(min(size, _BLOCK), dtype)
    for start in range(0, size, _BLOCK):
        block, part = added[: size - start], scaled[: size - start]
        np.multiply(flat[0][start : start + _BLOCK], shares[0], out=block)
        for value, share in zip(flat[1:], shares[1:], strict=True):
            block += np.multiply(value[start : start + _BLOCK], share, out=part)
        yield block
