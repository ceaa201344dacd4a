"""Drop updates that cannot be aggregated, by name, before the strategy sees them.

Flower's strategies pair arrays by position and end the run at the first reply with other keys; one client with a NaN
turns the model into NaN. Behind this grid a bad update is an error of its client, and the round goes on.
"""

from collections.abc import Iterable
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from numpy.lib import format as npy

from fedtrain.flower.wrapper import GridWrapper

# More than any data set holds; a larger weight would drown every other client.
_MAX_WEIGHT = 2.0**31


class CheckedGrid(GridWrapper):
    """Turns replies whose arrays or metrics cannot be aggregated into error replies.

    A reply passes if it has one array record with the names, shapes and dtypes of the one that was sent, finite
    throughout, and one metric record with exactly the expected names, finite, whose weight is allowed. Arrays are put
    into the order in which they were sent.
    """

    def __init__(self, inner: Grid, *, metrics: frozenset[str], weight_key: str, public_weight: float | None) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            metrics: the names of the metrics of a reply, the weight among them.
            weight_key: the metric that weighs the client in averages.
            public_weight: the only weight that is allowed; ``None`` allows any above 0 up to 2^31.
        """
        super().__init__(inner)
        self._metrics = metrics
        self._weight_key = weight_key
        self._public_weight = public_weight
        self._sent: dict[str, tuple[Message, ArrayRecord]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, each with exactly one array record, and remember what was sent."""
        messages = list(messages)
        ids = list(self._inner.push_messages(messages))
        self._sent = {
            message_id: (message, next(iter(message.content.array_records.values())))
            for message_id, message in zip(ids, messages, strict=True)
        }
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies so far, the unusable ones as errors."""
        return [self._checked(reply) for reply in self._inner.pull_messages(message_ids)]

    def _checked(self, reply: Message) -> Message:
        if reply.has_error():
            return reply
        request, sent = self._sent[reply.metadata.reply_to_message_id]
        records, metrics = reply.content.array_records, reply.content.metric_records
        problem: str | None
        if len(records) != 1 or len(metrics) != 1:
            problem = f"{len(records)} array records and {len(metrics)} metric records; 1 of each is allowed"
        else:
            problem = _arrays_problem(next(iter(records.values())), sent) or self._metrics_problem(
                next(iter(metrics.values()))
            )
        if problem:
            error = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=f"unusable update: {problem}")
            return Message(error, reply_to=request)
        name, received = next(iter(records.items()))
        if list(received) != list(sent):
            reply.content[name] = ArrayRecord({key: received[key] for key in sent})
        return reply

    def _metrics_problem(self, record: MetricRecord) -> str | None:
        if set(record) != self._metrics:
            return f"the metrics are {sorted(record)}, not {sorted(self._metrics)}"
        for name, value in record.items():
            if not np.isfinite(value).all():
                return f"the metric {name} is not finite"
        weight = record[self._weight_key]
        if self._public_weight is not None and weight != self._public_weight:
            return f"the weight is {weight!r}, and only the public {self._public_weight:g} is allowed"
        if not isinstance(weight, int | float) or not 0 < weight <= _MAX_WEIGHT:
            return f"the weight is {weight!r}, and a number above 0 and at most {_MAX_WEIGHT:.0f} is allowed"
        return None


def _arrays_problem(received: ArrayRecord, sent: ArrayRecord) -> str | None:
    if set(received) != set(sent):
        return f"the arrays {sorted(set(received) ^ set(sent))} are missing or were never sent"
    problems = (_array_problem(received[name], expected) for name, expected in sent.items())
    for name, problem in zip(sent, problems, strict=True):
        if problem:
            return f"the array {name} {problem}"
    return None


def _array_problem(received: Array, expected: Array) -> str | None:
    # The header is read by itself first: numpy allocates what it says, and a client wrote it.
    try:
        header = BytesIO(received.data)
        if npy.read_magic(header) != (1, 0):
            return "is not in version 1.0 of the npy format"
        shape, _, dtype = npy.read_array_header_1_0(header)
    except ValueError as error:
        return f"cannot be read: {error}"
    if shape != tuple(expected.shape) or str(dtype) != expected.dtype:
        return f"is {dtype}{list(shape)}, not {expected.dtype}{list(expected.shape)}"
    if len(received.data) - header.tell() != dtype.itemsize * int(np.prod(shape)):
        return "does not hold as many bytes as its shape says"
    values = received.numpy()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return f"has {int((~np.isfinite(values)).sum())} values that are not finite"
    return None
