"""What a message is made of, without Flower: named records of arrays or of small values.

A small value is one text, and exact: JSON has neither NaN nor whole numbers of 64 bits. The first letter is the type:
``b0`` and ``b1`` are false and true; ``i`` is followed by a decimal number, ``f`` by the 16 hexadecimal digits of a
double (IEEE 754, big-endian), and ``s`` by the text itself. ``x`` is followed by a number of bytes: these lie
elsewhere, those of all values in one row, where they are neither inflated nor parsed.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from numpy.typing import NDArray

from fedtrain.errors import TransportError

Scalar = int | float | str | bytes | bool
Value = Scalar | list[int] | list[float] | list[str] | list[bytes] | list[bool]
Kind = Literal["metrics", "config"]
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
_INT_LETTERS = len(str(_SMALLEST))
_DOUBLE_LETTERS = 16
_NUMBERS = frozenset("if")


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """Arrays by name, in an order that is kept.

    Attributes:
        items: of any shape; float16 to float64, int8 to int64, uint8 to uint64, or bool.
    """

    items: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Values:
    """Small values by name, in an order that is kept.

    Attributes:
        kind: ``metrics`` are whole numbers, floats and lists of one of the two; a ``config`` can hold all values.
        items: whole numbers are from -2**63 to 2**64 - 1; a list holds values of one type.
    """

    kind: Kind
    items: Mapping[str, Value]


Record = Arrays | Values


class Row:
    """Bytes that are taken from the front, piece by piece."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.taken = 0

    def take(self, length: int) -> bytes:
        """Return the next bytes.

        Raises:
            TransportError: there are not so many.
        """
        if not 0 <= length <= len(self._data) - self.taken:
            raise TransportError("a value has more bytes than are there")
        start, self.taken = self.taken, self.taken + length
        return bytes(self._data[start : self.taken])


def to_text(value: Value, kind: Kind, row: list[bytes]) -> str | list[str]:
    """Return a value as text, and append what it has of bytes to a row.

    Raises:
        TransportError: it is of another type than its kind of record can hold, is a list of several types, or is a
            whole number of more than 64 bits.
    """
    if isinstance(value, list):
        texts = [_to_text(item, row) for item in value]
        _check(texts, kind)
        return texts
    text = _to_text(value, row)
    _check([text], kind)
    return text


def from_text(text: object, kind: Kind, row: Row) -> Value:
    """Return the value that ``to_text`` wrote.

    Raises:
        TransportError: the text is anything else, or stands for something that this kind of record cannot hold.
    """
    match text:
        case str():
            _check([text], kind)
            return _from_text(text, row)
        case list() if all(isinstance(item, str) for item in text):
            _check(text, kind)
            return cast("Value", [_from_text(item, row) for item in text])
        case _:
            raise TransportError("a value is neither a text nor a list of texts")


def _check(texts: list[str], kind: Kind) -> None:
    types = {text[:1] for text in texts}
    if len(types) > 1:
        raise TransportError("a list holds values of several types")
    if kind == "metrics" and not types <= _NUMBERS:
        raise TransportError("a metric is neither a number nor a list of numbers")


def _to_text(value: object, row: list[bytes]) -> str:
    match value:
        case bool():
            return f"b{value:d}"
        case int() if _SMALLEST <= value <= _LARGEST:
            return f"i{value:d}"
        case float():
            return f"f{struct.pack('>d', value).hex()}"
        case str():
            return f"s{value}"
        case bytes():
            row.append(value)
            return f"x{len(value)}"
        case int():
            raise TransportError("a whole number has more than 64 bits")
        case _:
            raise TransportError(
                f"a value is of type {type(value).__name__}; int, float, str, bytes, bool, and lists of one of these "
                "are allowed"
            )


def _from_text(text: str, row: Row) -> Scalar:
    value = _parsed(text, row)
    if value is None or _to_text(value, []) != text:
        raise TransportError("a value is not in the only form that it has")
    return value


def _parsed(text: str, row: Row) -> Scalar | None:
    letter, rest = text[:1], text[1:]
    try:
        match letter:
            case "b":
                return rest == "1"
            # Not longer, since numbers of many digits take long to read.
            case "i" if len(rest) <= _INT_LETTERS:
                return int(rest)
            case "f" if len(rest) == _DOUBLE_LETTERS:
                return float(struct.unpack(">d", bytes.fromhex(rest))[0])
            case "s":
                return rest
            case "x" if len(rest) <= _INT_LETTERS:
                return row.take(int(rest))
    except (ValueError, struct.error):
        pass
    return None
