"""One byte string for each JSON value (RFC 8785, the JSON canonicalization scheme).

What is signed or hashed is always in this form, so that two programs that hold the same value hold the same bytes.
"""

import json
from typing import NoReturn

import rfc8785

_EXACT = 2**53 - 1  # beyond it a JSON number is not exact in every reader


def canonical(value: object) -> bytes:
    """Return a JSON value as canonical UTF-8.

    Raises:
        ValueError: it is not JSON: NaN, an infinity, a whole number beyond 2**53 - 1, a lone surrogate, an object key
            that is no string, another type, or nested too deeply.
    """
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # it checks the types itself
    except RecursionError as error:
        raise ValueError("the value is nested too deeply for JSON") from error


def is_canonical(data: bytes) -> bool:
    """Return whether bytes are a JSON value in its canonical form.

    Most data is compared with what the standard library's encoder makes of it, which is several times faster. For ASCII
    without special numbers both encoders give the same bytes; all else is given to `canonical`.
    """
    try:
        if data.isascii():
            value = json.loads(data, parse_float=_plain_float, parse_int=_plain_int, parse_constant=_refuse)
            encoded = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            if encoded.encode() == data:
                return True
    except _SpecialNumberError:
        pass
    except (ValueError, RecursionError):
        return False
    try:
        return canonical(json.loads(data, parse_int=_double, parse_constant=_refuse)) == data
    except (ValueError, RecursionError):
        return False


class _SpecialNumberError(Exception):
    """A number that the two encoders may write differently."""


def _plain_float(text: str) -> float:
    value = float(text)
    if "e" in text or "E" in text or text.endswith(".0") or repr(value) != text:
        raise _SpecialNumberError
    return value


def _plain_int(text: str) -> int:
    # Shortened first: Python refuses to read thousands of digits.
    if len(text) > len(str(-_EXACT)) or abs(value := int(text)) > _EXACT:
        raise _SpecialNumberError
    return value


def _double(text: str) -> int | float:
    # All numbers of RFC 8785 are doubles, and large ones are written without a point.
    value = float(text)
    return int(text) if abs(value) <= _EXACT else value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
