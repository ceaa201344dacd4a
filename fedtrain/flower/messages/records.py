"""Flower's records as the codec takes them, and back."""

from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedtrain.errors import TransportError
from fedtrain.messaging import Arrays, Record, Values
from fedtrain.messaging.content import Kind

# The name of an array that is bytes and no numpy file, which no application gives its own, and the format of it.
_BYTES = "fedtrain.bytes"

RecordLike = ArrayRecord | ConfigRecord | MetricRecord


def to_content(records: Mapping[str, RecordLike]) -> dict[str, Record]:
    """Return records as the codec takes them. Arrays are views of the records' own bytes where they can be.

    Raises:
        TransportError: an array is not in numpy's format.
    """
    return {name: _to_record(record) for name, record in records.items()}


def from_content(content: Mapping[str, Record]) -> RecordDict:
    """Return decoded content as Flower's records."""
    return RecordDict({name: _from_record(record) for name, record in content.items()})


def bytes_record(data: bytes) -> ArrayRecord:
    """Return bytes as a record of one array: of all that Flower carries, it sends arrays alone in parts."""
    return ArrayRecord({_BYTES: Array(dtype="uint8", shape=(len(data),), stype=_BYTES, data=data)})


def bytes_of(record: ArrayRecord) -> bytes:
    """Return the bytes that ``bytes_record`` put into a record.

    Raises:
        TransportError: it holds anything else.
    """
    array = record.get(_BYTES)
    if array is None or len(record) != 1 or array.stype != _BYTES:
        raise TransportError("an array record was to hold bytes, and holds something else")
    return array.data


def _to_record(record: RecordLike) -> Record:
    if isinstance(record, ArrayRecord):
        if _BYTES in record:
            return Arrays(items={_BYTES: np.frombuffer(bytes_of(record), np.uint8)})
        return Arrays(items={name: view(name, array) for name, array in record.items()})
    kind: Kind = "config" if isinstance(record, ConfigRecord) else "metrics"
    return Values(kind=kind, items=cast("dict[str, Any]", dict(record)))


def _from_record(record: Record) -> RecordLike:
    if isinstance(record, Arrays):
        if _BYTES in record.items:
            return bytes_record(record.items[_BYTES].tobytes())
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in record.items.items()})
    if record.kind == "config":
        return ConfigRecord(cast("dict[str, Any]", dict(record.items)))
    return MetricRecord(cast("dict[str, Any]", dict(record.items)))


def view(name: str, array: Array) -> NDArray[np.generic]:
    """Return an array of one's own program without copying it.

    Raises:
        TransportError: it is not in numpy's format.
    """
    if array.stype != SType.NUMPY:
        raise TransportError(f"the array {name} is in the format {array.stype!r}, and {SType.NUMPY!r} is allowed")
    file = BytesIO(array.data)
    try:
        if npy.read_magic(file) != (1, 0):
            return cast("NDArray[np.generic]", array.numpy())
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
        values = np.frombuffer(array.data, dtype, count=prod(shape), offset=file.tell())
    except ValueError as error:
        raise TransportError(f"the array {name} is not in numpy's format: {error}") from error
    return values.reshape(shape, order="F" if fortran_order else "C")
