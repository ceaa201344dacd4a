"""Arrow types that mean the same, and one that stands for them.

Programs write the same strings as ``string``, ``large_string``, ``string_view`` or a dictionary, the same bytes and
lists in as many layouts, and the same numbers in more or fewer bits. What a column means does not depend on it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fedtrain.errors import DataError

_TYPES: Final = pa.types

_STRINGS: Final = (_TYPES.is_string, _TYPES.is_large_string, _TYPES.is_string_view)
_BYTES: Final = (_TYPES.is_binary, _TYPES.is_large_binary, _TYPES.is_binary_view)
_LISTS: Final = (
    _TYPES.is_list,
    _TYPES.is_large_list,
    _TYPES.is_fixed_size_list,
    _TYPES.is_list_view,
    _TYPES.is_large_list_view,
)


def _any(tests: Iterable[Callable[[Any], bool]], kind: Any) -> bool:
    return any(test(kind) for test in tests)


def holds_lists(kind: Any) -> bool:
    """Tell whether a type is that of lists, in any layout."""
    return _any(_LISTS, kind)


def holds_files(kind: Any) -> bool:
    """Tell whether a type is that of the hub's images: a struct with the content of a file in the field ``bytes``."""
    return (
        bool(_TYPES.is_struct(kind)) and kind.get_field_index("bytes") >= 0 and _any(_BYTES, kind.field("bytes").type)
    )


def is_numeric(kind: Any) -> bool:
    """Tell whether a type is read as a number when it is a feature."""
    return bool(_TYPES.is_integer(kind) or _TYPES.is_floating(kind) or _TYPES.is_decimal(kind))


def plain_type(kind: Any, *, coded: bool = False) -> Any:
    """Return the type that stands for all that mean the same, whatever their layout. Numbers keep their width.

    ``large_string`` stands for strings, ``large_binary`` for bytes and for files, ``large_list`` for lists, ``bool``
    for booleans. A dictionary of strings is strings. A dictionary of numbers stays one: as a feature it holds
    categories.

    Args:
        kind: a ``pyarrow.DataType``.
        coded: whether numbers are read as categories anyway, as those of labels and owners are; then a dictionary of
            them is numbers.
    """
    if _TYPES.is_dictionary(kind):
        value = plain_type(kind.value_type, coded=coded)
        return value if coded or value == pa.large_string() else kind
    if _any(_STRINGS, kind):
        return pa.large_string()
    if _any(_BYTES, kind) or holds_files(kind):
        return pa.large_binary()
    if holds_lists(kind):
        return pa.large_list(plain_type(kind.value_type, coded=True))
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    return kind


def plain(values: Any, kind: Any, *, what: str) -> Any:
    """Return a column in another type that means the same.

    Args:
        values: a ``pyarrow.ChunkedArray``.
        kind: what `plain_type` or `common_type` returned.
        what: names the column in errors.

    Raises:
        DataError: a value does not fit, or this version of Arrow cannot convert the type.
    """
    if values.type == kind:
        return values
    try:
        if holds_files(values.type):
            values = pc.struct_field(values, "bytes")
        if holds_lists(values.type):
            return with_items(values, lambda items: items.cast(kind.value_type))
        # An integer or a decimal that has more digits than a float is rounded, as it is alone.
        return values.cast(kind, safe=not _TYPES.is_floating(kind))
    except pa.ArrowException as error:
        raise DataError(f"{what} has type {values.type} and cannot be read as {named(kind)}: {error}") from error


def require_utf8(values: Any, *, what: Callable[[int], str]) -> None:
    """Refuse strings that are not UTF-8. Those of a Parquet file may be any bytes: Arrow reads them without a look.

    Args:
        values: strings, a ``pyarrow.ChunkedArray`` of ``large_string``.
        what: names the text of a row in errors.

    Raises:
        DataError: one is not UTF-8.
    """
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        for row, content in enumerate(values.cast(pa.large_binary()).to_pylist()):
            try:
                (content or b"").decode()
            except UnicodeDecodeError as error:
                raise not_utf8(what(row), error) from None  # the error quotes the record


def not_utf8(what: str, error: UnicodeDecodeError) -> DataError:
    """Return what tells of a text that is not UTF-8, without a word of it."""
    return DataError(
        f"{what}: the text is not UTF-8: byte {error.start + 1} of it is none ({error.reason}); write the file again "
        "from text that was read with the encoding that it has"
    )


def with_items(values: Any, change: Callable[[Any], Any]) -> Any:
    """Return lists in any layout as ``large_list``, with items that are made from theirs.

    They are put together anew: what Arrow 26 casts from a list view to a list is no valid array.

    Args:
        values: a ``pyarrow.ChunkedArray`` of lists; some may be missing.
        change: from all items, one after another, to as many.
    """
    lists = values.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    missing = lists.is_null() if lists.null_count else None
    return pa.chunked_array([pa.LargeListArray.from_arrays(offsets, change(pc.list_flatten(lists)), mask=missing)])


def common_type(kinds: Iterable[Any], *, coded: bool = False, booleans: bool = False) -> Any:
    """Return the type in which the columns of several files mean what each means alone; ``None`` if there is none.

    Args:
        kinds: the types, each one that `plain_type` returned. A column without any value has the type ``null``, which
            goes with every other.
        coded: whether numbers are read as categories, as those of labels and owners are: then 1 and 1.0 differ.
        booleans: whether ``true`` means the same as 1, as in a column of one label.
    """
    different = {kind for kind in kinds if not _TYPES.is_null(kind)}
    if len(different) <= 1:
        return different.pop() if different else pa.null()
    if booleans:
        different = {pa.uint8() if _TYPES.is_boolean(kind) else kind for kind in different}
    if all(_TYPES.is_integer(kind) for kind in different):
        return pa.int64() if any(_TYPES.is_signed_integer(kind) for kind in different) else pa.uint64()
    if not coded and all(map(is_numeric, different)):
        return pa.float64()
    if all(map(holds_lists, different)):
        item = common_type((kind.value_type for kind in different), coded=True)
        return None if item is None else pa.large_list(item)
    return None


def named(kind: Any) -> str:
    """Return the name of a type for a person: of one that stands for several, the usual one."""
    return str(kind).replace("large_", "")
