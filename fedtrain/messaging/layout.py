"""The header of an encoded content, in the format of safetensors: what lies where.

Arrays are named by their place in the content and lie in the order of their alignment, without gaps. The metadata
describes the records; the bytes of all small values are one more array at the end.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import numpy as np

from fedtrain.errors import TransportError

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
