"""Contents of messages as bytes: arrays and small values, and nothing that could run.

The format is that of safetensors (huggingface/safetensors, "Format"): the length of a header, the header in JSON, and
the bytes of the arrays; `fedtrain.messaging.layout` says what ours holds.

A content has one encoding, and all other bytes are refused: `decode` makes the header again from what it read, and
compares. So gaps, overlaps, names that occur twice and fields without a meaning need not be looked for one by one.
Before anything is parsed the lengths of the whole and of the header are checked. Parsing takes memory for the header
alone, up to some 30 times its length, since arrays are views.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.errors import TransportError
from fedtrain.messaging.content import Arrays, Kind, Record, Value, Values
from fedtrain.messaging.layout import (
    LARGEST,
    LARGEST_HEADER,
    LENGTH_BYTES,
    Described,
    Tensor,
    checked_name,
    code_of,
    header,
    order,
    parsed,
)
from fedtrain.messaging.values import Row, from_text, to_text

_ARRAYS = "arrays"


def encode(content: Mapping[str, Record]) -> bytes:
    """Return a content as bytes: the same for the same, whatever the byte order and the strides of its arrays.

    Raises:
        TransportError: it holds something that cannot be encoded, or too much.
    """
    records: list[Described] = []
    arrays: list[NDArray[Any]] = []
    tensors: list[Tensor] = []
    row: list[bytes] = []
    for name, record in content.items():
        try:
            for item in (name, *record.items):
                checked_name(item)
            if isinstance(record, Arrays):
                records.append((name, _ARRAYS, list(record.items)))
                for array in record.items.values():
                    arrays.append(array)
                    tensors.append(Tensor(code=code_of(array.dtype), shape=array.shape))
            else:
                values = [[item, to_text(value, record.kind, row)] for item, value in record.items.items()]
                records.append((name, record.kind, list(values)))
        except TransportError as error:
            raise TransportError(f"the record {name!r:.100} cannot be encoded: {error}") from error
    joined = b"".join(row)
    first = header(records, tensors, len(joined))
    length = len(first) + sum(tensor.size for tensor in tensors) + len(joined)
    if length > LARGEST:
        raise TransportError(f"a content has {length} bytes when encoded, and {LARGEST} are allowed")
    # Joined here and not by the safetensors library, which copies the arrays twice and takes twice as long.
    ordered: list[Any] = [arrays[place].astype(tensors[place].dtype, order="C", copy=False) for place in order(tensors)]
    return b"".join([first, *ordered, joined])


def decode(data: bytes | memoryview, *, limit: int = LARGEST) -> dict[str, Record]:
    """Return the content that ``encode`` wrote, its arrays read-only, and without a copy where they are aligned.

    Args:
        data: what ``encode`` returned; the arrays keep it in memory.
        limit: the most bytes that it may have.

    Raises:
        TransportError: it has more, or is not what ``encode`` returns for any content, with the reason.
    """
    whole = memoryview(data).cast("B").toreadonly()
    try:
        return _decoded(whole, limit)
    except TransportError as error:
        raise TransportError(f"a content of {len(whole)} bytes cannot be decoded: {error}") from error


def _decoded(whole: memoryview, limit: int) -> dict[str, Record]:
    if len(whole) > limit:
        raise TransportError(f"at most {limit} are allowed")
    end = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    if end > (most := min(len(whole), LARGEST_HEADER)):
        raise TransportError(f"its header ends at byte {end}, and at most {most} are allowed")
    records, tensors, row_bytes = parsed(bytes(whole[LENGTH_BYTES:end]))
    if header(records, tensors, row_bytes) != whole[:end]:
        raise TransportError("its header is not the one that what it describes has")
    if end + sum(tensor.size for tensor in tensors) + row_bytes != len(whole):
        raise TransportError("its header describes more or fewer bytes than it has")
    row = Row(whole[len(whole) - row_bytes :])
    views = _views(whole[end:], tensors)
    content = {checked_name(name): _record(kind, items, views, row) for name, kind, items in records}
    if len(content) != len(records) or next(views, None) is not None or row.taken != row_bytes:
        raise TransportError("it names a record twice, or has arrays or bytes that belong to none")
    return content


def _views(data: memoryview, tensors: Sequence[Tensor]) -> Iterator[NDArray[Any]]:
    """Return the arrays in the order of the content."""
    starts, start = [0] * len(tensors), 0
    for place in order(tensors):
        starts[place] = start
        start += tensors[place].size
    for tensor, start in zip(tensors, starts, strict=True):
        view = np.frombuffer(data[start : start + tensor.size], dtype=tensor.dtype).reshape(tensor.shape)
        if tensor.dtype.kind == "b" and view.view(np.uint8).max(initial=0) > 1:
            raise TransportError("an array of bool holds other bytes than 0 and 1")
        if not view.flags.aligned:
            view = view.copy()
            view.setflags(write=False)
        yield view


def _record(kind: str, items: list[object], views: Iterator[NDArray[Any]], row: Row) -> Record:
    record: Record
    match kind:
        case "arrays":
            record = Arrays(items=dict(zip(map(checked_name, items), views, strict=False)))
        case "metrics" | "config":
            record = Values(kind=kind, items=dict(_value(item, kind, row) for item in items))
        case _:
            raise TransportError(f"it has a record of the kind {kind!r:.100}")
    if len(record.items) != len(items):
        raise TransportError("it names something in a record twice, or an array that it does not hold")
    return record


def _value(item: object, kind: Kind, row: Row) -> tuple[str, Value]:
    match item:
        case [name, text]:
            return checked_name(name), from_text(text, kind, row)
        case _:
            raise TransportError("it has a value that is no pair of a name and a text")
