import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from fedtrain.engine import requests, worker
from fedtrain.engine.arena import write_file
from fedtrain.engine.codec import CodecError, Place, Reply, Source, Task, encode_message, pack
from fedtrain.engine.requests import RequestBuffers, read_reply
from fedtrain.engine.worker import arena_name, slot_name
from fedtrain.errors import StorageError


@pytest.fixture
def sent(tmp_path):
    message = Message(RecordDict({"r": ArrayRecord([np.arange(4)])}), 1000, "train")
    (request,) = RequestBuffers([tmp_path]).add([message], timeout=None)
    return message, request


def answer(tmp_path, sent, place, **changes):
    """A reply with one array that lies at the given place; the file begins with 10 bytes of data."""
    message, request = sent
    encoded = encode_message(Message(message.content, reply_to=message))
    packed = pack(encoded.proto, [place])
    write_file([tmp_path], slot_name(3, request.slot), [b"0123456789", packed])
    values = {"ticket": 0, "directory": 0, "offset": 10, "length": len(packed), "has_state": False}
    return read_reply([tmp_path], 3, request, Reply(**(values | changes)))


def test_a_buffer_is_read_or_is_the_one_that_was_sent(tmp_path, sent):
    reply = answer(tmp_path, sent, Place(source=Source.OWN, first=2, second=3))
    assert reply.content["r"]["0"].data == b"234"
    reply = answer(tmp_path, sent, Place(source=Source.HELD, first=0))
    assert reply.content["r"]["0"].data is sent[0].content["r"]["0"].data


@pytest.mark.parametrize(
    ("place", "changes", "error", "text"),
    [
        (Place(source=Source.HELD, first=1), {}, CodecError, "buffer 1 of 1"),
        (Place(source=Source.OWN, first=2, second=2**40), {}, StorageError, "of a file of"),
        (Place(source=Source.HELD, first=0), {"directory": 1}, CodecError, "directory 1 of 1"),
        (Place(source=Source.HELD, first=0), {"length": 2**50}, StorageError, "of a file of"),
        (Place(source=Source.HELD, first=0), {"offset": 0, "length": 10}, CodecError, "announces"),
    ],
)
def test_what_does_not_exist_is_refused(tmp_path, sent, place, changes, error, text):
    with pytest.raises(error, match=text):
        answer(tmp_path, sent, place, **changes)


@pytest.mark.parametrize("large", [False, True])
def test_a_large_reply_leaves_no_file(tmp_path, sent, monkeypatch, large):
    monkeypatch.setattr(requests, "LARGE", 9 if large else 10)
    reply = answer(tmp_path, sent, Place(source=Source.OWN, first=2, second=3))
    assert reply.content["r"]["0"].data == b"234"
    assert (tmp_path / slot_name(3, sent[1].slot)).exists() == (not large)


@pytest.mark.parametrize("large", [False, True])
def test_the_file_of_large_messages_is_not_kept_for_the_next(tmp_path, sent, monkeypatch, large):
    message, request = sent
    size = (tmp_path / arena_name(0)).stat().st_size
    monkeypatch.setattr(requests, "LARGE", size - large)
    request.finish(Message(message.content, reply_to=message))
    assert (tmp_path / arena_name(0)).exists() == (not large)


@pytest.mark.parametrize("large", [False, True])
def test_a_worker_keeps_no_large_buffers_between_messages(tmp_path, monkeypatch, large):
    content = RecordDict({"r": ArrayRecord([np.arange(4)])})
    asked = RequestBuffers([tmp_path]).add([Message(content, node, "train") for node in (1000, 1001)], timeout=None)
    size = len(content["r"]["0"].data)
    monkeypatch.setattr(worker, "LARGE", size - large)
    arena = worker._OpenArena()
    tasks = [
        Task(ticket=0, slot=0, directory=0, arena=0, offset=request.region.offset, length=request.region.length)
        for request in asked
    ]
    (_, (first,)) = arena.read(tmp_path, tasks[0])
    arena.forget_large()
    (_, (second,)) = arena.read(tmp_path, tasks[1])
    assert first == second == content["r"]["0"].data
    assert (first is second) == (not large)
