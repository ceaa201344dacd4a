"""Arrays of a message as who receives them has them: in its file until somebody asks for them, where they are large.

A large model lies in shared memory once, for all workers. Who asks for its values gets a private mapping of the file,
of which the system copies the pages that are written. Who asks for its bytes, as Flower's arrays have them, gets them
read. A file that is mapped is never truncated: it is removed, and its memory is free when the last mapping ends.
"""

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array
from flwr.common.constant import SType
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedtrain.engine.arena import ReadableFile, Region

_PLAIN = "biufc"  # the kinds of numbers whose memory is what numpy writes
_PART = 1 << 20  # bytes that are read at once
_LONGEST_HEADER = 10_240  # bytes of a numpy file, of which numpy reads no more for a header either


class BytesInFile:
    """Bytes of a message that are read when they are asked for, and are kept from then on.

    Args:
        file: the file, which is open for as long as they may be asked for the first time.
        region: where they are in it.
        lent: whether who sent them has let go of them, so that they cannot be named in a reply.
    """

    def __init__(self, file: ReadableFile, region: Region, *, lent: bool = False) -> None:
        self._file = file
        self._region = region
        self.lent = lent
        self.held: bytes | None = None

    def __len__(self) -> int:
        """Return how many they are."""
        return self._region.length

    def read(self) -> bytes:
        """Return the bytes, always the same object."""
        if self.held is None:
            self.held = self._file.read(self._region)
        return self.held

    def parts(self) -> Iterator[bytes]:
        """Read the bytes part after part, none of which is kept here."""
        if self.held is not None:
            yield self.held
            return
        for start in range(0, len(self), _PART):
            length = min(_PART, len(self) - start)
            yield self._file.read(Region(offset=self._region.offset + start, length=length))

    def values(self) -> NDArray[Any] | None:
        """Return an array of one's own of the numpy file that they are; ``None`` where numpy is to read it itself."""
        if self.held is not None:
            return None
        start = Region(offset=self._region.offset, length=min(self._region.length, _LONGEST_HEADER))
        header = BytesIO(self._file.read(start))
        try:
            if npy.read_magic(header) != (1, 0):
                return None
            shape, fortran_order, dtype = npy.read_array_header_1_0(header)
        except ValueError:
            return None
        if dtype.hasobject or header.tell() + dtype.itemsize * prod(shape) != len(self):
            return None
        mapped = self._file.mapped(self._region)
        values = np.frombuffer(mapped, dtype, count=prod(shape), offset=header.tell())
        return values.reshape(shape, order="F" if fortran_order else "C")


class ReceivedArray(Array):
    """An array of a message. To all who use it, it is an ``Array``, with values that take one copy; a copy is plain."""

    def numpy(self) -> NDArray[Any]:
        """Return the values, for the caller alone: to write them changes nothing else."""
        if self.stype == SType.NUMPY and (header := _header(self.dtype, self.shape)) and self.data.startswith(header):
            dtype = np.dtype(self.dtype)
            if len(self.data) == len(header) + dtype.itemsize * prod(self.shape):
                return np.frombuffer(self.data, dtype, offset=len(header)).reshape(self.shape).copy()
        return super().numpy()

    def __eq__(self, other: object) -> bool:
        """Compare as ``Array`` does."""
        return isinstance(other, Array) and self._fields() == (other.dtype, other.shape, other.stype, other.data)

    __hash__ = None  # type: ignore[assignment] # as that of an ``Array``

    def __reduce__(self) -> tuple[type[Array], tuple[str, tuple[int, ...], str, bytes]]:
        """Copy it as a plain array."""
        return Array, self._fields()

    def _fields(self) -> tuple[str, tuple[int, ...], str, bytes]:
        return self.dtype, self.shape, self.stype, self.data


# Flower writes the name of an object's class into what its id is a digest of.
ReceivedArray.__qualname__ = Array.__qualname__


@lru_cache(maxsize=1024)
def _header(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return what numpy writes before values in C order, of the kinds whose memory it writes; nothing for others."""
    try:
        dtype = np.dtype(kind)
    except TypeError:
        return b""
    if dtype.kind not in _PLAIN:
        return b""
    file = BytesIO()
    facts = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, facts)
    return file.getvalue()


class ArrayInFile(ReceivedArray):
    """An array of a message with `BytesInFile`."""

    def __init__(self, *, dtype: str, shape: tuple[int, ...], stype: str, source: BytesInFile) -> None:
        self.__dict__.update({"dtype": dtype, "shape": shape, "stype": stype, "_source": source, "_given": None})

    @property
    def unread(self) -> BytesInFile | None:
        """Where the bytes are, unless others were set."""
        source: BytesInFile | None = self.__dict__["_source"] if self.__dict__["_given"] is None else None
        return source

    @property
    def data(self) -> bytes:
        """The bytes."""
        given: bytes | None = self.__dict__["_given"]
        source: BytesInFile = self.__dict__["_source"]
        return source.read() if given is None else given

    @data.setter
    def data(self, data: bytes) -> None:
        self.__dict__["_given"] = data

    def numpy(self) -> NDArray[Any]:
        """Return the values, for the caller alone: to write them changes nothing else."""
        source = self.unread
        values = None if source is None or self.stype != SType.NUMPY else source.values()
        return super().numpy() if values is None else values


ArrayInFile.__qualname__ = Array.__qualname__
