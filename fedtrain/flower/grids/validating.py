"""Drop updates that cannot be aggregated, by name, before the strategy sees them.

Flower's strategies pair arrays by position and end the run at the first reply with other keys; one client with a NaN
turns the model into NaN. Behind this grid a bad update is an error of its client, and the round goes on.
"""

from collections.abc import Iterable
from math import inf, prod
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode, SType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedtrain.flower.grids.base import GridWrapper
from fedtrain.flower.messages.records import c_ordered, npy_header
from fedtrain.privacy.clipping import bits_equal

# More than any data set holds; a larger weight would drown every other client.
_MAX_WEIGHT = 2.0**31
_WHOLE = "int32"


class ValidatingGrid(GridWrapper):
    """Turns replies whose arrays or metrics cannot be aggregated into error replies.

    A reply passes if it has one array record with the names, shapes and dtypes of the one that was sent, finite
    throughout but for constants that were sent otherwise, and one metric record with exactly the expected names, each a
    finite number, whose weight is allowed.
    Arrays are put into the order in which they were sent. Every reply is made anew, so that nothing passes that was not
    checked: no other record, no other name of a record, and no other sender than the node that was asked.
    """

    def __init__(
        self,
        inner: Grid,
        *,
        metrics: frozenset[str],
        weight_key: str,
        public_weight: float | None,
        indicator: str | None = None,
        powered: str | None = None,
        trained: frozenset[str] | None = None,
        fixed: bool = False,
        largest: int = 0,
    ) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            metrics: the names of the metrics of a reply, the weight among them.
            weight_key: the metric that weighs the client in averages.
            public_weight: the only weight that is allowed; ``None`` allows any above 0 up to 2^31.
            indicator: the metric that is 0 or 1, if there is one.
            powered: the metric that the strategy raises to a power, if there is one; it is 0 or more.
            trained: the names of what is trained; ``None`` for all. What is not trained may hold numbers that are not
                finite where they were sent so.
            fixed: whether what is not trained is to come back as it was sent, bit for bit.
            largest: the largest magnitude of whole numbers, int32, that come in the place of what is trained; 0 if what
                is trained comes back.
        """
        super().__init__(inner)
        self._metrics = metrics
        self._weight_key = weight_key
        self._public_weight = public_weight
        self._indicator = indicator
        self._powered = powered
        self._trained = trained
        self._fixed = fixed
        self._largest = largest
        self._sent: dict[str, tuple[Message, ArrayRecord]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, each with exactly one array record, and remember what was sent."""
        messages, self._sent = list(messages), {}
        ids = list(self._inner.push_messages(messages))
        self._sent = {
            message_id: (message, next(iter(message.content.array_records.values())))
            # A grid that cannot send answers with fewer ids, or with none in the place of one.
            for message_id, message in zip(ids, messages, strict=False)
        }
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies so far, the unusable ones as errors."""
        return [self._checked(reply) for reply in self._inner.pull_messages(message_ids)]

    def _checked(self, reply: Message) -> Message:
        request, sent = self._sent[reply.metadata.reply_to_message_id]
        if reply.has_error():
            return Message(reply.error, reply_to=request)
        records, metrics = reply.content.array_records, reply.content.metric_records
        problem: str | None
        if len(records) != 1 or len(metrics) != 1:
            problem = f"{len(records)} array records and {len(metrics)} metric records; 1 of each is allowed"
        else:
            problem = self._arrays_problem(next(iter(records.values())), sent) or self._metrics_problem(
                next(iter(metrics.values()))
            )
        if problem:
            error = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=f"unusable update: {problem}")
            return Message(error, reply_to=request)
        received, name = next(iter(records.values())), next(iter(request.content.array_records))
        arrays = ArrayRecord({key: received[key] for key in sent})
        return Message(RecordDict({name: arrays, "metrics": next(iter(metrics.values()))}), reply_to=request)

    def _arrays_problem(self, received: ArrayRecord, sent: ArrayRecord) -> str | None:
        if set(received) != set(sent):
            return f"the arrays {sorted(set(received) ^ set(sent))} are missing or were never sent"
        for name, expected in sent.items():
            trained = self._trained is None or name in self._trained
            largest = self._largest if trained else 0
            problem = _array_problem(received[name], expected, trained=trained, largest=largest)
            if not problem and self._fixed and not trained and c_ordered(received[name]) != c_ordered(expected):
                problem = "was changed, and in a private run what is not trained comes back as it was sent"
            if problem:
                return f"the array {name} {problem}"
        return None

    def _metrics_problem(self, record: MetricRecord) -> str | None:
        if set(record) != self._metrics:
            return f"the metrics are {sorted(record)}, not {sorted(self._metrics)}"
        for name, value in record.items():
            if not isinstance(value, int | float) or not -inf < value < inf:
                return f"the metric {name} is {value!r}, and one finite number is allowed"
        if self._indicator is not None and record[self._indicator] not in (0, 1):
            return f"the metric {self._indicator} is {record[self._indicator]!r}, and 0 or 1 is allowed"
        if (powered := self._powered) is not None and cast("float", record[powered]) < 0:
            return (
                f"the metric {name} is {record[name]!r}, and the strategy raises it to a power: it is to be 0 or more"
            )
        return self._weight_problem(record)

    def _weight_problem(self, record: MetricRecord) -> str | None:
        weight = cast("float", record[self._weight_key])
        if self._public_weight is not None and weight != self._public_weight:
            return f"the weight is {weight!r}, and only the public {self._public_weight:g} is allowed"
        if not 0 < weight <= _MAX_WEIGHT:
            return f"the weight is {weight!r}, and a number above 0 and at most {_MAX_WEIGHT:.0f} is allowed"
        return None


def _array_problem(received: Array, expected: Array, *, trained: bool, largest: int) -> str | None:
    kind = _WHOLE if largest else expected.dtype
    if received.stype != SType.NUMPY:
        return f"is in the format {received.stype!r}, and {SType.NUMPY!r} is allowed"
    if (received.dtype, received.shape) != (kind, tuple(expected.shape)):
        return f"is {received.dtype}{list(received.shape)}, not {kind}{list(expected.shape)}"
    dtype = np.dtype(kind)
    # numpy evaluates a header and allocates what it says, and a client wrote it: only what numpy itself would write is
    # accepted, in either order of the values, and nothing is parsed.
    shape = tuple(expected.shape)
    headers = (npy_header(dtype, shape, fortran_order=turned) for turned in (False, True))
    header = next(filter(received.data.startswith, headers), None)
    if header is None:
        return "does not begin with the npy header of its type and shape"
    if len(received.data) - len(header) != dtype.itemsize * prod(expected.shape):
        return "does not hold as many bytes as its shape says"
    values = np.frombuffer(memoryview(received.data)[len(header) :], dtype)
    if dtype.kind in "fc" and not np.isfinite(values).all():
        wrong = ~np.isfinite(values)
        if not trained:
            ours, theirs = (
                np.frombuffer(memoryview(c_ordered(array))[len(header) :], dtype) for array in (expected, received)
            )
            wrong = ~(np.isfinite(theirs) | bits_equal(theirs, ours))
        if wrong.any():
            return f"has {int(wrong.sum())} values that are not finite"
    return f"has a whole number beyond {largest}" if largest and _beyond(values, largest) else None


def _beyond(values: NDArray[Any], largest: int) -> bool:
    """Say whether a whole number is larger than any sum with its share of the noise."""
    return values.size > 0 and max(int(values.max()), -int(values.min())) > largest
