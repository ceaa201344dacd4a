"""Replies on their way back: read from the file in which a worker has put them."""

from collections.abc import Sequence
from pathlib import Path

from flwr.app import Message

from fedtrain.engine.arena import ReadableFile, Region
from fedtrain.engine.codec import CodecError, Source, decode, unpack
from fedtrain.engine.frames import Reply
from fedtrain.engine.requests import Request
from fedtrain.engine.worker import slot_name


def read_reply(directories: Sequence[Path], worker: int, request: Request, frame: Reply) -> Message:
    """Read the reply to a request. What came with the message and came back unchanged is the object that was sent.

    Args:
        directories: those of the run.
        worker: the number of the worker that answered.
        request: the request that it answered; its slot tells the file.
        frame: what the worker said about the reply.

    Raises:
        CodecError: the reply is not a message, or refers to what does not exist.
        StorageError: it lies outside the file, or there is no such file.
    """
    if frame.directory >= len(directories):
        raise CodecError(f"a reply names directory {frame.directory} of {len(directories)}")
    file = ReadableFile(directories[frame.directory] / slot_name(worker, request.slot))
    try:
        proto, places = unpack(file.read(Region(offset=frame.offset, length=frame.length)))
        known: dict[tuple[int, int], bytes] = {}
        buffers = []
        for place in places:
            if place.source is Source.HELD:
                if place.first >= len(request.buffers):
                    raise CodecError(f"a reply names buffer {place.first} of {len(request.buffers)}")
                buffers.append(request.buffers[place.first])
                continue
            key = (place.first, place.second)
            if key not in known:
                known[key] = file.read(Region(offset=place.first, length=place.second))
            buffers.append(known[key])
    finally:
        file.close()
    return decode(proto, buffers)
