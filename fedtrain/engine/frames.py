"""The short frames that travel through the pipe between the parent and a worker.

Content lies in files (see `arena`), so frames are small: a pipe holds all that can be under way, and no side ever
waits for the other to read. A frame is a kind (uint8) and the fields of that kind, little-endian.
"""

import struct
from dataclasses import dataclass

from fedtrain.errors import RunError

MAX_REASON = 8000  # characters

_TASK = struct.Struct("<BQBBQQQ")
_BARE = struct.Struct("<B")
_REPLY = struct.Struct("<BQBQQB")
_FAILURE = struct.Struct("<BQH")
_KIND_TASK, _KIND_STOP, _KIND_READY, _KIND_REPLY, _KIND_FAILURE = range(5)


class FrameError(RunError):
    """Bytes that are not a frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Parent to worker: a message to run, if its ticket can still be taken."""

    ticket: int
    slot: int  # the file of the worker that takes the reply
    directory: int
    arena: int
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Parent to worker: end. A pipe that is closed without this means that the parent is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Worker to parent: the app is loaded, or its loading failed; messages will be answered."""


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


Frame = Task | Stop | Ready | Reply | Failure


def pack_frame(frame: Frame) -> bytes:
    """Encode a frame."""
    match frame:
        case Task():
            return _TASK.pack(
                _KIND_TASK, frame.ticket, frame.slot, frame.directory, frame.arena, frame.offset, frame.length
            )
        case Stop():
            return _BARE.pack(_KIND_STOP)
        case Ready():
            return _BARE.pack(_KIND_READY)
        case Reply():
            return _REPLY.pack(_KIND_REPLY, frame.ticket, frame.directory, frame.offset, frame.length, frame.has_state)
        case Failure():
            reason = limit_reason(frame.reason).encode("utf-8", "replace")
            return _FAILURE.pack(_KIND_FAILURE, frame.ticket, frame.code) + reason


def unpack_frame(data: bytes) -> Frame:
    """Decode a frame.

    Raises:
        FrameError: the bytes are not a frame.
    """
    try:
        kind = data[0]
        if kind == _KIND_TASK:
            _, ticket, slot, directory, arena, offset, length = _TASK.unpack(data)
            return Task(ticket=ticket, slot=slot, directory=directory, arena=arena, offset=offset, length=length)
        if kind in {_KIND_STOP, _KIND_READY}:
            _BARE.unpack(data)
            return Stop() if kind == _KIND_STOP else Ready()
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
