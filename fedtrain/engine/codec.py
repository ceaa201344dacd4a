"""What travels between the parent and its workers, as bytes: Flower messages in files, and short frames in a pipe.

A message becomes Flower's own protobuf with every ``Array.data`` left empty, and a list of these data in the order in
which the arrays occur. Data are neither copied nor looked at, so that one buffer can serve many messages. A packed
message is a table that says where each buffer lies, followed by the protobuf:

    count: uint32 | count x (source: uint8, first: uint64, second: uint64) | protobuf

For a buffer in a file, ``first`` and ``second`` are its offset and its length; for a buffer that the reader holds
already, ``first`` is its index and ``second`` is 0. All integers are little-endian.

Content lies in files (see `arena`), so frames are small: a pipe holds all that can be under way, and no side ever
waits for the other to read. A frame is a kind (uint8) and the fields of that kind, little-endian.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import SType
from flwr.common.serde import (
    config_record_from_proto,
    config_record_to_proto,
    metric_record_from_proto,
    metric_record_to_proto,
)
from flwr.common.serde_utils import error_from_proto, error_to_proto, metadata_from_proto, metadata_to_proto
from flwr.proto import message_pb2, recorddict_pb2
from google.protobuf.message import DecodeError

from fedtrain.engine.inplace import ArrayInFile, BytesInFile, ReceivedArray
from fedtrain.errors import RunError

_COUNT = struct.Struct("<I")
_ENTRY = struct.Struct("<BQQ")


class CodecError(RunError):
    """Bytes that are not a packed message."""


class Source(IntEnum):
    """Where a buffer of a packed message lies."""

    OWN = 0  # in the file of the message, used by this message alone
    SHARED = 1  # in the file of the message, used by other messages too
    HELD = 2  # the reader has it: it is a buffer of the message that this one replies to
    LENT = 3  # as SHARED, and the sender has let go of it, so that no reply can name it


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one buffer lies (see the module)."""

    source: Source
    first: int
    second: int = 0


Buffer = bytes | BytesInFile
"""The data of an array: here, or in the file of the message with which they came."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The protobuf of a message or of its content without array data, and these data.

    Attributes:
        proto: the protobuf.
        buffers: the data.
        opaque: the places of those that are no numbers, such as a sealed model: no app sends them back as they came.
    """

    proto: bytes
    buffers: tuple[Buffer, ...]
    opaque: frozenset[int] = frozenset()


def encode_content(content: RecordDict) -> Encoded:
    """Encode the content of a message; ``proto`` is a part to which `encode_head` adds the rest.

    Raises:
        TypeError: a value that Flower cannot carry.
        ValueError: likewise.
    """
    buffers: list[Buffer] = []
    opaque: set[int] = set()
    items = []
    for key, record in content.items():
        item = recorddict_pb2.RecordDict.Item(key=key)
        if isinstance(record, ArrayRecord):
            item.array_record.SetInParent()
            for name, array in record.items():
                buffer = (array.unread if isinstance(array, ArrayInFile) else None) or array.data
                if not isinstance(buffer, BytesInFile) and type(buffer) is not bytes:
                    kind = type(buffer).__name__
                    raise TypeError(f"the data of array {name!r} in record {key!r} must be bytes, not {kind}")
                entry = item.array_record.items.add(key=name)
                entry.value.dtype = array.dtype
                entry.value.shape.extend(array.shape)
                entry.value.stype = array.stype
                if array.stype != SType.NUMPY:
                    opaque.add(len(buffers))
                buffers.append(buffer)
        elif isinstance(record, ConfigRecord):
            item.config_record.CopyFrom(config_record_to_proto(record))
        else:
            item.metric_record.CopyFrom(metric_record_to_proto(record))
        items.append(item)
    proto = message_pb2.Message(content=recorddict_pb2.RecordDict(items=items))
    return Encoded(proto=proto.SerializeToString(), buffers=tuple(buffers), opaque=frozenset(opaque))


def encode_head(metadata: Metadata, error: Error | None = None) -> bytes:
    """Encode what is not content. Protobuf defines the concatenation of two messages as their union."""
    proto = message_pb2.Message(metadata=metadata_to_proto(metadata))
    if error is not None:
        proto.error.CopyFrom(error_to_proto(error))
    return proto.SerializeToString()


def encode_message(message: Message) -> Encoded:
    """Encode a whole message.

    Raises:
        TypeError: a value that Flower cannot carry.
        ValueError: likewise.
    """
    head = encode_head(message.metadata, message.error if message.has_error() else None)
    if not message.has_content():
        return Encoded(proto=head, buffers=())
    content = encode_content(message.content)
    return Encoded(proto=head + content.proto, buffers=content.buffers)


def pack(proto: bytes, places: Iterable[Place]) -> bytes:
    """Put the table of buffers before the protobuf."""
    entries = [_ENTRY.pack(place.source, place.first, place.second) for place in places]
    return b"".join([_COUNT.pack(len(entries)), *entries, proto])


def unpack(packed: bytes) -> tuple[bytes, list[Place]]:
    """Undo `pack`.

    Raises:
        CodecError: the bytes are not a packed message.
    """
    if len(packed) < _COUNT.size:
        raise CodecError(f"a packed message of {len(packed)} bytes is too short")
    (count,) = _COUNT.unpack_from(packed)
    end = _COUNT.size + count * _ENTRY.size
    if end > len(packed):
        raise CodecError(f"a packed message of {len(packed)} bytes announces {count} buffers")
    try:
        places = [
            Place(source=Source(source), first=first, second=second)
            for source, first, second in _ENTRY.iter_unpack(packed[_COUNT.size : end])
        ]
    except ValueError as error:
        raise CodecError(f"a packed message has a buffer in an unknown place: {error}") from error
    return packed[end:], places


def decode(proto: bytes, buffers: Sequence[Buffer]) -> Message:
    """Build a message from its protobuf and its buffers.

    Every call builds new records, so that who changes them changes them alone; the data, immutable bytes, are shared.

    Raises:
        CodecError: the protobuf is broken, or it has another number of arrays than there are buffers.
    """
    try:
        parsed = message_pb2.Message.FromString(proto)
        left = iter(buffers)
        content = _records(parsed.content, lambda: next(left)) if parsed.HasField("content") else None
        if next(left, None) is not None:
            raise CodecError(f"a message has fewer arrays than its {len(buffers)} buffers")
        return make_message(
            metadata=metadata_from_proto(parsed.metadata),
            content=content,
            error=error_from_proto(parsed.error) if parsed.HasField("error") else None,
        )
    except StopIteration:
        raise CodecError(f"a message has more arrays than its {len(buffers)} buffers") from None
    except (DecodeError, TypeError, ValueError) as error:
        raise CodecError(f"a message cannot be decoded: {error}") from error


def _records(proto: recorddict_pb2.RecordDict, next_buffer: Callable[[], Buffer]) -> RecordDict:
    records = RecordDict()
    for item in proto.items:
        kind = item.WhichOneof("value")
        if kind == "array_record":
            record = ArrayRecord()
            for entry in item.array_record.items:
                value = entry.value
                record[entry.key] = _array(value.dtype, tuple(value.shape), value.stype, next_buffer())
            records[item.key] = record
        elif kind == "config_record":
            records[item.key] = config_record_from_proto(item.config_record)
        elif kind == "metric_record":
            records[item.key] = metric_record_from_proto(item.metric_record)
        else:
            raise CodecError(f"record {item.key!r} of a message has no value")
    return records


def _array(dtype: str, shape: tuple[int, ...], stype: str, buffer: Buffer) -> Array:
    if isinstance(buffer, BytesInFile):
        return ArrayInFile(dtype=dtype, shape=shape, stype=stype, source=buffer)
    # What Array() does once it has checked the types, which are known here: ten times faster.
    array: Array = ReceivedArray.__new__(ReceivedArray)
    array.__dict__.update({"dtype": dtype, "shape": shape, "stype": stype, "data": buffer})
    return array


MAX_REASON = 8000  # characters

_TASK = struct.Struct("<BQHBQQQH")
_BARE = struct.Struct("<B")
_REPLY = struct.Struct("<BQBQQB")
_FAILURE = struct.Struct("<BQH")
_KIND_TASK, _KIND_STOP, _KIND_READY, _KIND_REPLY, _KIND_FAILURE, _KIND_UNUSABLE = range(6)


class FrameError(RunError):
    """Bytes that are not a frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Parent to worker: a message to run, if its ticket can still be taken.

    So many tasks follow at once that are run together with it, and have no tickets of their own.
    """

    ticket: int
    slot: int  # the file of the worker that takes the reply
    directory: int
    arena: int
    offset: int
    length: int
    followers: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Parent to worker: end. A pipe that is closed without this means that the parent is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Worker to parent: the app is loaded; messages will be answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusable:
    """Worker to parent: the app cannot be loaded, or cannot be used here, for this reason; the worker ends."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """Worker to parent: the reply is in the file of the task's slot, and the node's new state, if any, is staged."""

    ticket: int
    directory: int
    offset: int
    length: int
    has_state: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Worker to parent: there is no reply, for this reason."""

    ticket: int
    code: int  # of flwr.common.constant.ErrorCode
    reason: str


Frame = Task | Stop | Ready | Unusable | Reply | Failure


def pack_frame(frame: Frame) -> bytes:
    """Encode a frame."""
    match frame:
        case Task():
            return _TASK.pack(
                *(_KIND_TASK, frame.ticket, frame.slot, frame.directory, frame.arena, frame.offset, frame.length),
                frame.followers,
            )
        case Stop():
            return _BARE.pack(_KIND_STOP)
        case Ready():
            return _BARE.pack(_KIND_READY)
        case Unusable():
            return _BARE.pack(_KIND_UNUSABLE) + _reason(frame.reason)
        case Reply():
            return _REPLY.pack(_KIND_REPLY, frame.ticket, frame.directory, frame.offset, frame.length, frame.has_state)
        case Failure():
            return _FAILURE.pack(_KIND_FAILURE, frame.ticket, frame.code) + _reason(frame.reason)


def _reason(reason: str) -> bytes:
    return limit_reason(reason).encode("utf-8", "replace")


def unpack_frame(data: bytes) -> Frame:
    """Decode a frame.

    Raises:
        FrameError: the bytes are not a frame.
    """
    try:
        kind = data[0]
        if kind == _KIND_TASK:
            _, ticket, slot, directory, arena, offset, length, followers = _TASK.unpack(data)
            return Task(
                ticket=ticket,
                slot=slot,
                directory=directory,
                arena=arena,
                offset=offset,
                length=length,
                followers=followers,
            )
        if kind in {_KIND_STOP, _KIND_READY}:
            _BARE.unpack(data)
            return Stop() if kind == _KIND_STOP else Ready()
        if kind == _KIND_UNUSABLE:
            return Unusable(reason=data[_BARE.size :].decode())
        if kind == _KIND_REPLY:
            _, ticket, directory, offset, length, has_state = _REPLY.unpack(data)
            return Reply(ticket=ticket, directory=directory, offset=offset, length=length, has_state=bool(has_state))
        if kind == _KIND_FAILURE:
            _, ticket, code = _FAILURE.unpack_from(data)
            return Failure(ticket=ticket, code=code, reason=data[_FAILURE.size :].decode())
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"a frame of {len(data)} bytes cannot be decoded: {error}") from error
    raise FrameError(f"a frame of the unknown kind {kind}")


def limit_reason(reason: str) -> str:
    """Shorten a reason to `MAX_REASON` characters. Its end is kept: that is where a traceback names the error."""
    if len(reason) <= MAX_REASON:
        return reason
    return f"[{len(reason) - MAX_REASON} characters cut]\n{reason[-MAX_REASON:]}"
