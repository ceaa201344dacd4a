"""Read single columns of Arrow tables."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedtrain.data.sources.categories import Coded, Place
from fedtrain.errors import DataError


def require_values(values: Any, *, column: str, place: Place) -> None:
    """Refuse missing values.

    Raises:
        DataError: there is one.
    """
    if values.null_count:
        row = pc.index(values.is_null(), value=True).as_py()
        raise DataError(f"{place(row)}, column {column!r}: the value is missing")


def is_categorical(kind: Any) -> bool:
    """Tell whether a type is read as categories when it is a feature."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_dictionary(kind)
    )


def is_numeric(kind: Any) -> bool:
    """Tell whether a type is read as a number when it is a feature."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def coded(values: Any, *, column: str, place: Place) -> Coded:
    """Read integers, strings or booleans as codes of their different values.

    Raises:
        DataError: a value is missing, or the column has another type.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    require_values(values, column=column, place=place)
    kind = values.type
    if not pa.types.is_integer(kind) and not is_categorical(kind):
        raise DataError(f"{place(0)}, column {column!r} has type {kind}; allowed: integers, strings and booleans")
    if is_categorical(kind):
        values = values.cast(pa.large_string())
    encoded = values.combine_chunks().dictionary_encode()
    return Coded(
        values=encoded.dictionary.to_pylist(), codes=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    )


def numbers(values: Any, *, column: str, place: Place) -> NDArray[np.float32]:
    """Read numbers.

    Raises:
        DataError: a value is missing, or not finite as a float32.
    """
    require_values(values, column=column, place=place)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        result: NDArray[np.float32] = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(result))
    if bad.size:
        row = int(bad[0])
        raise DataError(f"{place(row)}, column {column!r}: {values[row].as_py()} is not a finite 32-bit number")
    return result
