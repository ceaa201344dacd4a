"""Messages on their way, and their replies on the way back.

Messages are encoded once, with each buffer written once per push, however many messages share it. A reply is read from
the file in which a worker has put it.
"""

import copy
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby, pairwise
from pathlib import Path
from threading import Event
from uuid import uuid4

from flwr.app import Error, Message, MessageType, Metadata, RecordDict
from flwr.app.message import make_message

from fedtrain.engine.arena import ReadableFile, Region, remove_file, write_file
from fedtrain.engine.codec import (
    Buffer,
    CodecError,
    Encoded,
    Place,
    Reply,
    Source,
    decode,
    encode_content,
    encode_head,
    limit_reason,
    pack,
    unpack,
)
from fedtrain.engine.worker import MAPPED, arena_name, slot_name
from fedtrain.errors import UsageError
from fedtrain.memory import LARGE, give_back_models

_ALIGNMENT = 64  # bytes, as tensors have it: what is computed of values that are mapped may depend on it


class Arena:
    """The file with the messages of one push. Its memory is used again when the last of them is answered."""

    def __init__(self, *, number: int, directory: int, users: int, spares: "SpareFile") -> None:
        self.number = number
        self.directory = directory
        self.answered = Event()  # all of its messages are
        self._users = users
        self._spares = spares

    def release(self) -> None:
        """Note that one message is answered."""
        self._users -= 1
        if self._users == 0:
            self._spares.keep(self)
            self.answered.set()


class SpareFile:
    """At most one file that is no longer needed: to overwrite it is several times faster than to fill new memory."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._path: Path | None = None

    def keep(self, arena: Arena) -> None:
        """Take over the file of an arena that is released."""
        path = self._directories[arena.directory] / arena_name(arena.number)
        small = path.exists() and path.stat().st_size <= LARGE
        if self._path is None and arena.directory == 0 and small:
            self._path = path
        else:
            path.unlink(missing_ok=True)  # and not truncated: a worker may have mapped it

    def reuse(self, number: int) -> None:
        """Let the next arena, with this number, overwrite the spare file if there is one."""
        if self._path is not None:
            self._path.rename(self._path.with_name(arena_name(number)))
            self._path = None


@dataclass(kw_only=True, slots=True)
class Tally:
    """How the messages of one type were answered.

    Attributes:
        contents: with a content.
        errors: with an error.
        last_error: the reason in the latest of these.
    """

    contents: int = 0
    errors: int = 0
    last_error: str = ""

    def count(self, reply: Message) -> None:
        """Take a reply into account."""
        if reply.has_error():
            self.errors += 1
            self.last_error = reply.error.reason or ""
        else:
            self.contents += 1


@dataclass(kw_only=True, slots=True, eq=False)
class Request:
    """A message that was pushed, until its reply is pulled."""

    metadata: Metadata
    arena: Arena
    region: Region
    buffers: tuple[Buffer, ...]
    limit: float  # seconds that the client may take
    deadline: float  # in monotonic seconds
    tally: Tally
    ticket: int = 0  # of the latest dispatch
    slot: int = 0  # likewise
    reply: Message | None = field(default=None)

    @property
    def node_id(self) -> int:
        """The node that the message is for."""
        return self.metadata.dst_node_id

    def finish(self, reply: Message) -> None:
        """Set the reply, and let go of what the message holds."""
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        self.tally.count(reply)
        self.reply = reply
        self.buffers = ()
        self.arena.release()

    def pull(self) -> Message:
        """Return the reply, and let go of what it holds. The request stays answered."""
        assert self.reply is not None
        reply, self.reply = self.reply, make_message(metadata=self.metadata, content=RecordDict())
        return reply

    def error_reply(self, code: int, reason: str) -> Message:
        """Make a reply that says what went wrong, with a code of ``flwr.common.constant.ErrorCode``."""
        request = make_message(metadata=self.metadata, content=RecordDict())
        return Message(Error(code, limit_reason(reason)), reply_to=request)


@dataclass(kw_only=True, slots=True, eq=False)
class Group:
    """Requests that one worker runs together. Most groups are of one."""

    requests: list[Request]  # that are not answered
    ticket: int = 0  # of the latest dispatch
    slot: int = 0  # likewise

    @property
    def nodes(self) -> list[int]:
        """The nodes that are asked."""
        return [request.node_id for request in self.requests]


def grouped(requests: Iterable[Request], most: int) -> list[Group]:
    """Return requests in groups, in their order: neighbours that train, of as many nodes as there are requests.

    Groups depend on the requests alone, and are of nearly equal sizes.

    Args:
        requests: those of one push.
        most: how many a group may have.
    """
    groups: list[Group] = []
    for trains, run in groupby(requests, lambda request: _trains(request.metadata)):
        left = list(run)
        while left:
            nodes = dict[int, None]()
            while len(nodes) < len(left) and left[len(nodes)].node_id not in nodes:
                nodes[left[len(nodes)].node_id] = None
            apart, left = left[: len(nodes)], left[len(nodes) :]
            parts = -(-len(apart) // (most if trains else 1))
            cuts = [len(apart) * part // parts for part in range(parts + 1)]
            groups += [Group(requests=apart[start:end]) for start, end in pairwise(cuts)]
    return groups


def _trains(metadata: Metadata) -> bool:
    return metadata.message_type.partition(".")[0] == MessageType.TRAIN


class RequestBuffers:
    """Turns messages into requests.

    Attributes:
        tallies: how those that were answered were, by the type of the message.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.tallies: dict[str, Tally] = {}
        self._directories = directories
        self._numbers = count()
        self._spares = SpareFile(directories)

    def add(self, messages: Iterable[Message], timeout: float | None) -> list[Request]:
        """Give each message an id, and write all of them to a new arena.

        Args:
            messages: instruction messages. What they hold now is what is sent.
            timeout: seconds in which they must be answered; their own time to live counts too.

        Raises:
            UsageError: a message is not one that can be pushed; none is pushed.
            StorageError: there is no room for them.
        """
        encoded = list(_encode(messages))
        if not encoded:
            return []
        parts, regions, lent = _layout(encoded)
        number = next(self._numbers)
        self._spares.reuse(number)
        give_back_models(sum(map(len, parts)))  # of the messages before
        directory = write_file(self._directories, arena_name(number), parts)
        arena = Arena(number=number, directory=directory, users=len(encoded), spares=self._spares)
        now, wall = time.monotonic(), time.time()
        requests = []
        for (metadata, content, _), region in zip(encoded, regions, strict=True):
            remaining = metadata.created_at + metadata.ttl - wall
            limited = timeout is not None and timeout < remaining
            requests.append(
                Request(
                    metadata=metadata,
                    arena=arena,
                    region=region,
                    buffers=tuple(b"" if id(buffer) in lent else buffer for buffer in content.buffers),
                    limit=timeout if timeout is not None and limited else metadata.ttl,
                    deadline=now + (timeout if timeout is not None and limited else remaining),
                    tally=self.tallies.setdefault(metadata.message_type, Tally()),
                )
            )
        return requests


def _encode(messages: Iterable[Message]) -> Iterable[tuple[Metadata, Encoded, bytes]]:
    """Encode each message as soon as it is produced: a generator may go on to change what it has given out."""
    at_rest = isinstance(messages, list | tuple)
    known: dict[int, Encoded] = {}
    for message in messages:
        metadata = message.metadata
        if metadata.reply_to_message_id != "" or not metadata.ttl > 0 or metadata.delivered_at != "":
            raise UsageError(f"only an instruction message with a time to live can be pushed, not {message}")
        metadata.__dict__["_message_id"] = str(uuid4())
        content = Encoded(proto=b"", buffers=())
        if message.has_content():
            records = message.content
            known_content = known.get(id(records)) if at_rest else None
            try:
                content = known_content or encode_content(records)
            except (TypeError, ValueError) as error:
                raise UsageError(f"the message to node {metadata.dst_node_id} cannot be sent: {error}") from error
            known[id(records)] = content
        head = encode_head(metadata, message.error if message.has_error() else None)
        yield copy.copy(metadata), content, head


def _layout(
    encoded: Sequence[tuple[Metadata, Encoded, bytes]],
) -> tuple[list[bytes], list[Region], frozenset[int]]:
    """Put all buffers first, each once, then the packed messages.

    Returns the file's parts, each message's place, and which buffers lie nowhere but in the file from now on, by their
    identities.
    """
    uses = Counter(id(buffer) for _, content, _ in encoded for buffer in content.buffers)
    lent = _lent(encoded)
    parts: list[bytes] = []
    places: dict[int, Place] = {}
    offset = 0
    for _, content, _ in encoded:
        for buffer in content.buffers:
            if id(buffer) not in places:
                source = Source.SHARED if uses[id(buffer)] > 1 else Source.OWN
                source = Source.LENT if id(buffer) in lent else source
                if len(buffer) >= MAPPED and (gap := -offset % _ALIGNMENT):
                    parts.append(bytes(gap))
                    offset += gap
                places[id(buffer)] = Place(source=source, first=offset, second=len(buffer))
                parts.append(buffer if isinstance(buffer, bytes) else buffer.read())
                offset += len(buffer)
    packed: dict[int, bytes] = {}
    regions = []
    for _, content, head in encoded:
        if id(content) not in packed:
            packed[id(content)] = pack(content.proto, [places[id(buffer)] for buffer in content.buffers])
        message = (packed[id(content)], head)
        length = sum(map(len, message))
        regions.append(Region(offset=offset, length=length))
        parts.extend(message)
        offset += length
    return parts, regions, lent


def _lent(encoded: Sequence[tuple[Metadata, Encoded, bytes]]) -> frozenset[int]:
    """Return the identities of the large buffers of large messages that no app sends back as they came."""
    sizes = {id(buffer): len(buffer) for _, content, _ in encoded for buffer in content.buffers}
    if sum(sizes.values()) <= LARGE:
        return frozenset()
    opaque = {id(content.buffers[place]) for _, content, _ in encoded for place in content.opaque}
    return frozenset(identity for identity in opaque if sizes[identity] >= MAPPED)


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
    path = directories[frame.directory] / slot_name(worker, request.slot)
    file = ReadableFile(path)
    try:
        proto, places = unpack(file.read(Region(offset=frame.offset, length=frame.length)))
        known: dict[tuple[int, int], bytes] = {}
        buffers: list[Buffer] = []
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
        if frame.offset > LARGE:
            remove_file(path)
    return decode(proto, buffers)
