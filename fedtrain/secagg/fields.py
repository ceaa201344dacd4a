"""Read the fields of a received message: each by name, of one type and within bounds, and no others."""

import math
from collections.abc import Mapping
from itertools import pairwise

from fedtrain.errors import TransportError

Value = int | float | str | bytes | list[int] | list[bytes] | list[str]

LARGEST_WHOLE = 2**53 - 1
"""What JSON holds exactly in every reader."""


class Reader:
    """Takes fields one by one; what is left at the end is refused."""

    def __init__(self, what: str, fields: Mapping[str, object]) -> None:
        """Begin.

        Args:
            what: what the fields are, for the errors.
            fields: the fields.
        """
        self._what = what
        self._fields = dict(fields)

    def whole(self, name: str) -> int:
        """Take a whole number from 0 to 2^53 - 1."""
        value = self._take(name)
        if not _is_whole(value):
            raise self._error(name, "not a whole number from 0 to 2^53 - 1")
        return value  # type: ignore[return-value]  # checked

    def number(self, name: str) -> float:
        """Take a finite double."""
        value = self._take(name)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self._error(name, "not a finite number")
        return value

    def hexadecimal(self, name: str, size: int) -> str:
        """Take the hexadecimal digits, in lower case, of so many bytes."""
        value = self._take(name)
        if not isinstance(value, str) or len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
            raise self._error(name, f"not {2 * size} hexadecimal digits in lower case")
        return value

    def data(self, name: str, most: int) -> bytes:
        """Take at most so many bytes."""
        value = self._take(name)
        if not isinstance(value, bytes) or len(value) > most:
            raise self._error(name, f"not bytes, or more than {most}")
        return value

    def all_data(self, name: str, count: int, most: int) -> tuple[bytes, ...]:
        """Take a list of at most so many byte strings, each of at most so many bytes."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > count:
            raise self._error(name, f"not a list, or of more than {count}")
        if not all(isinstance(item, bytes) and len(item) <= most for item in value):
            raise self._error(name, f"not a list of bytes, or one has more than {most}")
        return tuple(value)

    def clients(self, name: str, count: int) -> tuple[int, ...]:
        """Take a list of at most so many clients, in increasing order."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > count:
            raise self._error(name, f"not a list, or of more than {count}")
        if not all(_is_whole(item) for item in value):
            raise self._error(name, "not a list of clients, which are whole numbers from 0")
        if any(first >= second for first, second in pairwise(value)):
            raise self._error(name, "not in increasing order, each client once")
        return tuple(value)

    def end(self) -> None:
        """Refuse fields that were not taken."""
        if self._fields:
            raise TransportError(f"{self._what} cannot be used: unknown field {min(map(str, self._fields))!r}")

    def rest(self) -> dict[str, object]:
        """Take all fields that were not taken."""
        rest, self._fields = self._fields, {}
        return rest

    def _take(self, name: str) -> object:
        if name not in self._fields:
            raise TransportError(f"{self._what} cannot be used: there is no field {name!r}")
        return self._fields.pop(name)

    def _error(self, name: str, problem: str) -> TransportError:
        return TransportError(f"{self._what} cannot be used: {name} is {problem}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_WHOLE
