"""Read TOML as people and their editors write it: with a byte order mark, on Windows, and with the mistakes of both.

Fields that take several names are one string with commas, since Flower's run config holds no lists; a list is joined.
"""

import codecs
import os
import re
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator

_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_LONGEST_NAME: Final = 255
_PLACE: Final = re.compile(r"at line (\d+), column")
_ESCAPE: Final = (
    "; in double quotes a backslash begins an escape: write a Windows path in single quotes ('C:\\data'), or with "
    'forward slashes ("C:/data")'
)
_HINTS: Final = (
    (re.compile(r'"[^"]*\\'), _ESCAPE),
    (
        re.compile("[\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}]"),
        '; the quotes are typographic: write straight ones (")',
    ),
    (re.compile(r"=\s*(True|False)\b"), "; write true and false in small letters"),
    (re.compile(r"=\s*(None|null|nil)\b"), '; leave an unset field out, or set it to ""'),
    (re.compile(r"=\s*[A-Za-z_]"), "; write text in quotes"),
)


def parse_toml(data: bytes) -> dict[str, Any]:
    """Read the content of a TOML file. A byte order mark of UTF-8 is passed over.

    >>> parse_toml(b"a = 1")
    {'a': 1}

    Raises:
        ValueError: it is not TOML; the message says where, and where it can, what to write.
    """
    if data.startswith(_UTF_16) or b"\0" in data[:4]:
        raise ValueError("it is in UTF-16 or UTF-32; save it as UTF-8")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} has a byte that is not UTF-8 (0x{data[error.start]:02x}); save it as UTF-8"
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{error}{_hint(text, str(error))}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _hint(text: str, message: str) -> str:
    lines = text.splitlines()
    place = _PLACE.search(message)
    number = int(place.group(1)) if place else 0
    if not 0 < number <= len(lines):
        return ""
    return next((hint for pattern, hint in _HINTS if pattern.search(lines[number - 1])), "")


def joined(value: object) -> object:
    """Return a list of names as the string in which commas separate them; all else as it is.

    >>> joined(["cat", "dog"])
    'cat, dog'

    Raises:
        ValueError: an item is no name, or a name that such a string cannot hold.
    """
    if isinstance(value, str) and value.startswith("[") and value.endswith("]") and "," in value:
        raise ValueError("commas separate the names, without brackets around them")
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return value
    names = [_name(item) for item in value]
    if not names:
        raise ValueError("the list is empty; leave the field out")
    return ", ".join(names)


def _name(item: object) -> str:
    if isinstance(item, bool):
        return str(item).lower()  # as the labels of a column of booleans are called
    if not isinstance(item, str | int):
        raise ValueError(f"{item!r} is no name; a list holds strings")  # noqa: TRY004 - pydantic reports a ValueError
    name = str(item)
    if not name or "," in name or name != name.strip():
        raise ValueError(f"a name cannot be empty, hold a comma, or begin or end with a space, and one is {name!r}")
    return name


def _visible(value: str) -> str:
    if any(ord(letter) < ord(" ") for letter in value):
        raise ValueError(f"{value!r} holds a tab, a line break or the like{_ESCAPE}")
    return value


def _possible(value: str) -> str:
    if long := [part for part in _visible(value).split("/") if len(os.fsencode(part)) > _LONGEST_NAME]:
        raise ValueError(f"no file has a name of more than {_LONGEST_NAME} bytes, as {long[0][:20]!r}... has")
    return value


Line = Annotated[str, AfterValidator(_visible)]
"""A text in one visible line."""

Names = Annotated[str, BeforeValidator(joined)]
"""Several names in one string, commas between them; a list of names is accepted."""

FilePath = Annotated[
    str,
    BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value),
    AfterValidator(_possible),
]
"""A path or a pattern of paths, in one visible line, each part as long as the name of a file can be."""
