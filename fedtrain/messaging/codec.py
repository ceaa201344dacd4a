"""Contents of messages as bytes: arrays and small values, and nothing that could run.

The format is that of safetensors (huggingface/safetensors, "Format"): the length of a header, the header in JSON, and
the bytes of the arrays. The header says what lies where: arrays are named by their place in the content and lie in the
order of their alignment, without gaps. The metadata describes the records; the bytes of all small values are one more
array at the end.

A content has one encoding, and all other bytes are refused: `decode` makes the header again from what it read, and
compares. So gaps, overlaps, names that occur twice and fields without a meaning need not be looked for one by one.
Before anything is parsed the lengths of the whole and of the header are checked. Parsing takes memory for the header
alone, up to some 30 times its length, since arrays are views.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fedtrain.errors import TransportError
from fedtrain.messaging.content import Arrays, Kind, Record, Row, Value, Values, from_text, to_text

# In one message, AES-GCM of the cryptography package takes less than 2 GiB.
LARGEST = 2**31 - 2**16
LARGEST_HEADER = 2**23
LENGTH_BYTES = 8

_VERSION = "fedtrain.content/1"
_METADATA, _ROW = "__metadata__", "bytes"
_MOST_RECORDS = 1000
_MOST_ITEMS = 100_000
_LONGEST_NAME = 1000
_MOST_DIMENSIONS = 32

# Safetensors' names of what numpy has, too, always little-endian.
_TYPES = {
    "BOOL": np.dtype("?"),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
_CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in _TYPES.items()}

# Name and kind of a record, and its items: names of arrays, or pairs of a name and a value as text.
Described = tuple[str, str, list[object]]
_ARRAYS = "arrays"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An array without its values.

    Attributes:
        code: its type, as safetensors names it.
        shape: its shape.

    Raises:
        TransportError: the type is not known, or the shape is none that an array of a content can have.
    """

    code: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.code not in _TYPES:
            raise TransportError(f"an array is of type {self.code!r}, and {', '.join(_TYPES)} are allowed")
        if len(self.shape) > _MOST_DIMENSIONS:
            raise TransportError(f"an array has {len(self.shape)} dimensions, and {_MOST_DIMENSIONS} are allowed")
        # Also an array without values needs a shape that numpy can have.
        if any(length < 0 for length in self.shape) or prod(max(1, length) for length in self.shape) > LARGEST:
            raise TransportError(f"an array has the shape {self.shape}, and at most {LARGEST} values are allowed")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type in numpy."""
        return _TYPES[self.code]

    @property
    def count(self) -> int:
        """How many values it has."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.count * self.dtype.itemsize


def code_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a type, of any byte order.

    Raises:
        TransportError: it is not allowed.
    """
    try:
        return _CODES[dtype.kind, dtype.itemsize]
    except KeyError:
        raise TransportError(f"it is of type {dtype}; bool, integers and floats of 16 to 64 bits are allowed") from None


def order(tensors: Sequence[Tensor]) -> list[int]:
    """Return the places of the arrays in the order in which they lie."""
    return sorted(range(len(tensors)), key=lambda place: -tensors[place].dtype.itemsize)


def header(records: Sequence[Described], tensors: Sequence[Tensor], row: int) -> bytes:
    """Return the header with its length in front, padded so that arrays can be aligned.

    Args:
        records: what the content has.
        tensors: its arrays.
        row: how many bytes its small values have.

    Raises:
        TransportError: the names and small values are more than is allowed, or not Unicode.
    """
    items = sum(len(record[2]) for record in records)
    if len(records) > _MOST_RECORDS or items > _MOST_ITEMS:
        raise TransportError(
            f"there are {len(records)} records with {items} arrays and values, and {_MOST_RECORDS} with {_MOST_ITEMS} "
            "are allowed"
        )
    last = [(_ROW, Tensor(code="U8", shape=(row,)))] if row else []
    entries: dict[str, object] = {_METADATA: {_VERSION: _json(records)}}
    start = 0
    for name, tensor in [*((str(place), tensors[place]) for place in order(tensors)), *last]:
        end = start + tensor.size
        entries[name] = {"data_offsets": [start, end], "dtype": tensor.code, "shape": tensor.shape}
        start = end
    try:
        text = _json(entries).encode()
    except UnicodeEncodeError as error:
        raise TransportError(f"a name or a text is not Unicode: {error}") from error
    text += b" " * (-len(text) % LENGTH_BYTES)
    if LENGTH_BYTES + len(text) > LARGEST_HEADER:
        raise TransportError(
            f"names and small values have {len(text)} bytes when encoded, and {LARGEST_HEADER} are allowed: many "
            "numbers can be an array instead, and long texts bytes"
        )
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parsed(text: bytes) -> tuple[list[Described], list[Tensor], int]:
    """Return what ``header`` was given. Other texts than it makes may be read, too.

    Args:
        text: a header without its length.

    Raises:
        TransportError: the text cannot be read.
    """
    try:
        entries = json.loads(text)
        match entries:
            case {"__metadata__": {"fedtrain.content/1": str(described)}}:
                records = json.loads(described)
            case _:
                raise TransportError(f"it is not a content of version {_VERSION}")
    except (ValueError, RecursionError) as error:
        raise TransportError(f"the header is not JSON: {error}") from error
    if not (isinstance(records, list) and all(_is_described(record) for record in records)):
        raise TransportError("the header describes records in another way than that of its version")
    row = _tensor(entries.pop(_ROW)).size if _ROW in entries else 0
    tensors = [_tensor(entries.get(str(place))) for place in range(len(entries) - 1)]
    return [(name, kind, items) for name, kind, items in records], tensors, row


def checked_name(name: object) -> str:
    """Return a name, if it is a text of bounded length.

    Raises:
        TransportError: it is not.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise TransportError(f"a record or what is in it has a name that is no text of at most {_LONGEST_NAME} letters")
    return name


def _json(value: object) -> str:
    # Of objects with keys in ASCII that hold text and whole numbers this is the canonical form of RFC 8785, and faster.
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _is_described(record: object) -> TypeGuard[Described]:
    match record:
        case [str(), str(), list()]:
            return True
        case _:
            return False


def _tensor(entry: object) -> Tensor:
    match entry:
        case {"dtype": str(code), "shape": list(shape)} if all(type(length) is int for length in shape):
            return Tensor(code=code, shape=tuple(shape))
        case _:
            raise TransportError("the header has an array without a type and a shape")


def encode(content: Mapping[str, Record]) -> bytes:
    """Return a content as bytes: the same for the same, whatever the byte order and the strides of its arrays.

    Raises:
        TransportError: it holds something that cannot be encoded, or too much.
    """
    # Joined here and not by the safetensors library, which copies the arrays twice and takes twice as long.
    return b"".join(encoded_parts(content))


def encoded_parts(content: Mapping[str, Record]) -> list[bytes | memoryview]:
    """Return what `encode` joins. Of arrays that lie as they are sent, the parts are views.

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
    ordered = [arrays[place].astype(tensors[place].dtype, order="C", copy=False) for place in order(tensors)]
    return [first, *(array.reshape(-1).view(np.uint8).data for array in ordered), joined]


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
        raise TransportError("its header is not the canonical one of its content")
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
