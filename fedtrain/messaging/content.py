"""What a message is made of, without Flower: named records of arrays or of small values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Scalar = int | float | str | bytes | bool
Value = Scalar | list[int] | list[float] | list[str] | list[bytes] | list[bool]
Kind = Literal["metrics", "config"]


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
