"""Flower's records as the codec takes them, and back; and their values read one by one, refused by name."""

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from math import inf, prod
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedtrain.engine.inplace import ArrayInFile
from fedtrain.errors import TransportError
from fedtrain.messaging import Arrays, Ciphertext, Record, Values
from fedtrain.messaging.content import Kind

if TYPE_CHECKING:
    from torch import Tensor

# The name of an array that is bytes and no numpy file, which no application gives its own, and the format of it.
_BYTES = "fedtrain.bytes"

# Bytes in which the header of a numpy file says how its values lie.
_HEADER = 128

# The kinds of numbers whose memory is what numpy writes.
_PLAIN = "biufc"

# Characters of a value that a refusal quotes.
_LONGEST = 80

RecordLike = ArrayRecord | ConfigRecord | MetricRecord


def to_content(records: Mapping[str, RecordLike]) -> dict[str, Record]:
    """Return records as the codec takes them. Arrays are views of the records' own bytes where they can be.

    Raises:
        TransportError: an array is not in numpy's format.
    """
    return {name: _to_record(record) for name, record in records.items()}


def from_content(content: Mapping[str, Record]) -> RecordDict:
    """Return decoded content as Flower's records."""
    return RecordDict({name: _from_record(record) for name, record in content.items()})


def bytes_record(data: bytes) -> ArrayRecord:
    """Return bytes as a record of one array: of all that Flower carries, it sends arrays alone in parts."""
    return ArrayRecord({_BYTES: Array(dtype="uint8", shape=(len(data),), stype=_BYTES, data=data)})


def bytes_of(record: ArrayRecord) -> bytes | memoryview:
    """Return the bytes that ``bytes_record`` put into a record.

    Raises:
        TransportError: it holds anything else.
    """
    return _array_of_bytes(record).data


def body_of(record: ArrayRecord) -> Ciphertext:
    """Return these bytes where they are: in the file of a message of the engine, if nobody has read them yet.

    Raises:
        TransportError: it holds anything else.
    """
    array = _array_of_bytes(record)
    return (array.unread if isinstance(array, ArrayInFile) else None) or array.data


def _array_of_bytes(record: ArrayRecord) -> Array:
    array = record.get(_BYTES)
    if array is None or len(record) != 1 or array.stype != _BYTES:
        raise TransportError("an array record was to hold bytes, and holds something else")
    return array


def _decoded_bytes(values: NDArray[Any]) -> ArrayRecord:
    """Return bytes that a message held, where they are, for those who read them here."""
    record = bytes_record(b"")
    array = record[_BYTES]
    array.shape, array.data = values.shape, cast("bytes", values.data)
    return record


def _to_record(record: RecordLike) -> Record:
    if isinstance(record, ArrayRecord):
        if _BYTES in record:
            return Arrays(items={_BYTES: np.frombuffer(bytes_of(record), np.uint8)})
        return Arrays(items={name: view(name, array) for name, array in record.items()})
    kind: Kind = "config" if isinstance(record, ConfigRecord) else "metrics"
    return Values(kind=kind, items=cast("dict[str, Any]", dict(record)))


def _from_record(record: Record) -> RecordLike:
    if isinstance(record, Arrays):
        if _BYTES in record.items:
            return _decoded_bytes(record.items[_BYTES])
        return ArrayRecord({name: to_array(value) for name, value in record.items.items()})
    if record.kind == "config":
        return ConfigRecord(cast("dict[str, Any]", dict(record.items)))
    return MetricRecord(cast("dict[str, Any]", dict(record.items)))


def to_array(values: NDArray[Any]) -> Array:
    """Return values as an array of a message, in C order whatever their layout in memory is.

    A transposed weight would be sent in Fortran order, and writers of files downstream take its memory for its values.
    Values that are a view of the bytes of such an array (`view`) are not copied.
    """
    ordered = np.asarray(values, order="C")
    if ordered.dtype.kind not in _PLAIN:
        return Array(ordered)
    # What Array(ordered) holds, by one copy of the values: that lets numpy write a file in memory first.
    header = npy_header(ordered.dtype, ordered.shape)
    data = _viewed(ordered, header) or b"".join((header, ordered.reshape(-1).view(np.uint8).data))
    return Array(dtype=str(ordered.dtype), shape=ordered.shape, stype=SType.NUMPY, data=data)


def _viewed(values: NDArray[Any], header: bytes) -> bytes:
    """Return the bytes of a numpy file of which values in C order are a view; none where they are of no such file."""
    source: object = values
    while isinstance(source, np.ndarray):
        source = source.base
    if type(source) is not bytes or len(source) != len(header) + values.nbytes or not source.startswith(header):
        return b""
    begins = np.frombuffer(source, np.uint8, count=1).ctypes.data
    return source if values.ctypes.data == begins + len(header) else b""


def array_of_parts(dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[NDArray[Any]]) -> Array:
    """Return an array of values that are made part after part, each written once: what `to_array` makes of the whole.

    Args:
        dtype: of plain numbers.
        shape: of the whole.
        parts: contiguous values of that type, in C order.
    """
    header = npy_header(dtype, shape)
    size = dtype.itemsize * prod(shape)
    file = BytesIO()
    # All of its memory at once, and not anew whenever the file has grown. Only what is written makes it longer.
    file.seek(len(header) + max(size - 1, 0))
    file.write(b"\0"[:size])
    file.seek(0)
    file.write(header)
    for part in parts:
        file.write(part.view(np.uint8).data)
    return Array(dtype=str(dtype), shape=shape, stype=SType.NUMPY, data=file.getvalue())


def state_record(state: Mapping[str, "Tensor"]) -> ArrayRecord:
    """Return a model's state dict as it is sent: names in their order, values in C order.

    NumPy sees copies, one after another: the memory of what it has seen itself torch cannot give back any more.
    """
    return ArrayRecord({name: to_array(tensor.detach().cpu().clone().numpy()) for name, tensor in state.items()})


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran_order: bool = False) -> bytes:
    """Return the header that numpy writes before the values of an array."""
    header = BytesIO()
    facts = {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran_order, "shape": tuple(shape)}
    npy.write_array_header_1_0(header, facts)
    return header.getvalue()


def c_ordered(array: Array) -> bytes:
    """Return the bytes of an array as numpy writes its values in C order: the same for the same values.

    Nothing is parsed, since a client may have written them: bytes that are not those of numpy are returned as they are.
    """
    shape, kind = tuple(array.shape), np.sctypeDict.get(array.dtype)
    if array.stype != SType.NUMPY or b"'fortran_order': True" not in array.data[:_HEADER] or kind is None:
        return array.data
    dtype = np.dtype(kind)
    try:
        header, turned = npy_header(dtype, shape), npy_header(dtype, shape, fortran_order=True)
        if not array.data.startswith(turned) or len(array.data) - len(turned) != dtype.itemsize * prod(shape):
            return array.data
        values = np.frombuffer(memoryview(array.data)[len(turned) :], dtype).reshape(shape, order="F")
    except (ValueError, OverflowError):  # of objects, texts without characters, and shapes that no array has
        return array.data
    return header + values.tobytes()


def view(name: str, array: Array) -> NDArray[np.generic]:
    """Return an array of one's own program without copying it.

    Raises:
        TransportError: it is not in numpy's format.
    """
    if array.stype != SType.NUMPY:
        raise TransportError(f"the array {name} is in the format {array.stype!r}, and {SType.NUMPY!r} is allowed")
    file = BytesIO(array.data)
    try:
        if npy.read_magic(file) != (1, 0):
            return cast("NDArray[np.generic]", array.numpy())
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
        values = np.frombuffer(array.data, dtype, count=prod(shape), offset=file.tell())
    except ValueError as error:
        raise TransportError(f"the array {name} is not in numpy's format: {error}") from error
    return values.reshape(shape, order="F" if fortran_order else "C")


class Fields:
    """The values of one record of a message, read one by one: what is missing or of another kind is refused by name."""

    def __init__(self, content: RecordDict, name: str, *, what: str) -> None:
        """Open a record.

        Args:
            content: of the message.
            name: the record's.
            what: the message's name in a refusal.

        Raises:
            TransportError: there is no such record, or one of another kind.
        """
        record = content.get(name)
        if not isinstance(record, ConfigRecord | MetricRecord):
            _refuse_record(record, name, what, "values by name")
        self._values: Mapping[str, object] = record
        self._name = name
        self._what = what

    def __contains__(self, field: str) -> bool:
        """Say whether there is such a value."""
        return field in self._values

    def __iter__(self) -> Iterator[str]:
        """Return the names of the values."""
        return iter(self._values)

    def text(self, field: str) -> str:
        """Return a text.

        Raises:
            TransportError: it is missing, or none.
        """
        value = self._values.get(field)
        return value if isinstance(value, str) else self._refuse(field, "a text")

    def whole(self, field: str, *, least: int = 0) -> int:
        """Return a whole number.

        Raises:
            TransportError: it is missing, none, or below the least.
        """
        value = self._values.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        return self._refuse(field, f"a whole number of at least {least}")

    def number(self, field: str, *, positive: bool = False, signed: bool = False) -> float:
        """Return a finite number: of at least 0, above it, or of either sign.

        Raises:
            TransportError: it is missing, or none of these.
        """
        value = self._values.get(field)
        if isinstance(value, float) and -inf < value < inf and (signed or value > 0 or (value == 0 and not positive)):
            return value
        bound = "" if signed else " above 0" if positive else " of at least 0"
        return self._refuse(field, f"a finite float{bound}")

    def _refuse(self, field: str, allowed: str) -> NoReturn:
        raise TransportError(
            f"{self._what} cannot be used: {field!r} in its record {self._name!r} is {_shown(self._values, field)}, "
            f"and {allowed} is allowed"
        )


def _shown(values: Mapping[str, object], field: str) -> str:
    """Return a value for a message to people, shortened; or that there is none."""
    if field not in values:
        return "missing"
    text = repr(values[field])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def arrays_in(content: RecordDict, name: str, *, what: str) -> ArrayRecord:
    """Return the arrays of a message by the record's name; ``what`` is the message's name in a refusal.

    Raises:
        TransportError: there are none by this name.
    """
    record = content.get(name)
    return record if isinstance(record, ArrayRecord) else _refuse_record(record, name, what, "arrays")


def config_in(content: RecordDict, name: str, *, what: str) -> ConfigRecord:
    """Return the settings of a message likewise.

    Raises:
        TransportError: there are none by this name.
    """
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else _refuse_record(record, name, what, "configuration values")


def _refuse_record(record: object, name: str, what: str, allowed: str) -> NoReturn:
    found = "missing" if record is None else f"of the type {type(record).__name__}"
    raise TransportError(f"{what} cannot be used: its record {name!r} is {found}, and {allowed} are allowed")
