"""Columns of texts: each as its UTF-8 bytes, of which the first so many are kept."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedtrain.data.sources.base import Place
from fedtrain.data.sources.columns import require_values
from fedtrain.data.sources.plain import holds_files, not_utf8, plain_type
from fedtrain.progress import working

_PART = 10_000


def holds_text(kind: Any) -> bool:
    """Tell whether a type is that of texts: strings, or bytes that may be UTF-8."""
    found = plain_type(kind, coded=True)
    return bool(pa.types.is_large_string(found) or (pa.types.is_large_binary(found) and not holds_files(kind)))


def decode_texts(values: Any, *, column: str, place: Place, length: int) -> NDArray[np.uint8]:
    """Read a column of texts.

    An empty text is a record like others. A longer text than is kept is cut between two characters. The character 0 is
    read as a space, since zeros stand after a text.

    Args:
        values: strings or bytes, a ``pyarrow.ChunkedArray`` of a plain type.
        column: its name.
        place: names a row.
        length: bytes that are kept of a text.

    Returns:
        The bytes of each text, shape (n, length), with zeros after them.

    Raises:
        DataError: a text is missing, or is not UTF-8.
    """
    require_values(values, column=column, place=place)
    texts = np.zeros((len(values), length), np.uint8)
    row = 0
    with working("decoding texts", len(values)) as done:
        for chunk in values.chunks:
            for start in range(0, len(chunk), _PART):
                # Strings of a file may be any bytes: Arrow reads them without a look.
                for content in chunk.slice(start, _PART).cast(pa.large_binary()).to_pylist():
                    kept = stored_text(content, length, what=partial(_what, place, column, row))
                    texts[row, : len(kept)] = np.frombuffer(kept, np.uint8)
                    row += 1
                done(row)
    return texts


def _what(place: Place, column: str, row: int) -> str:
    return f"{place(row)}, column {column!r}"


def stored_text(content: bytes, length: int, *, what: Callable[[], str]) -> bytes:
    """Return the bytes of a text as they are stored, without the zeros after them.

    Args:
        content: the text in UTF-8.
        length: bytes that are kept of it.
        what: names the text in errors.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(what(), error) from None  # the error quotes the record
    if len(content) > length:
        content = content[:length].decode(errors="ignore").encode()
    return content.replace(b"\0", b" ")
