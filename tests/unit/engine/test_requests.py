import gc
import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedtrain import memory
from fedtrain.engine import requests, worker
from fedtrain.engine.arena import issue_ticket, write_file
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
def test_messages_of_before_are_gone_where_messages_are_large(tmp_path, monkeypatch, large):
    def message():
        content = RecordDict({"r": ArrayRecord([np.arange(4)])})
        assert len(content.array_records) == 1  # which Flower makes a cycle of
        return Message(content, 1000, "train")

    buffers, gone = RequestBuffers([tmp_path]), []
    monkeypatch.setattr(memory, "LARGE", 0 if large else 1 << 20)
    gc.disable()
    try:
        first = message()
        weakref.finalize(first.content["r"]["0"], gone.append, "first")
        del first
        buffers.add([message()], timeout=None)
        assert gone == (["first"] if large else [])
    finally:
        gc.enable()


def spec_in(tmp_path):
    return worker.WorkerSpec(
        client_app="here",
        app_dir=tmp_path,
        run_id=1,
        run_config={},
        nodes=2,
        threads=1,
        together=1,
        directories=(tmp_path,),
        state_directory=tmp_path,
        durable_state=False,
        environment={},
    )


@pytest.mark.parametrize("large", [False, True])
def test_a_worker_keeps_no_large_message(tmp_path, monkeypatch, large):
    """Answer two messages that share their model, and look at what is held between them."""
    content = RecordDict({"r": ArrayRecord([np.arange(4)])})
    asked = RequestBuffers([tmp_path]).add([Message(content, node, "train") for node in (1000, 1001)], timeout=None)
    for module in (memory, worker):
        monkeypatch.setattr(module, "LARGE", len(content["r"]["0"].data) - large)
    app, gone = ClientApp(), []

    @app.train()
    def answer(message, context):
        assert len(message.content.array_records) == 1
        weakref.finalize(message.content["r"]["0"], gone.append, context.node_id)
        return Message(RecordDict(), reply_to=message)

    runner = worker._Runner(0, spec_in(tmp_path), app)
    gc.collect()
    gc.disable()
    try:
        for ticket, request in enumerate(asked):
            issue_ticket(tmp_path, ticket)
            where = {"offset": request.region.offset, "length": request.region.length}
            (reply,) = runner.answer([Task(ticket=ticket, slot=0, directory=0, arena=0, **where)])
            assert isinstance(reply, Reply), reply
        assert gone == ([1000, 1001] if large else [])
    finally:
        gc.enable()


@pytest.mark.parametrize("large", [False, True])
def test_what_no_app_sends_back_is_let_go_when_it_is_sent(tmp_path, monkeypatch, large):
    """A sealed model lies in the file of its messages alone. An app that sends it back all the same sends its bytes."""
    numbers, opaque = Array(np.arange(4)), Array(dtype="uint8", shape=(6,), stype="own", data=b"sealed")
    record = ArrayRecord({"numbers": numbers, "opaque": opaque})
    for module in (memory, worker, requests):
        monkeypatch.setattr(module, "LARGE", 0 if large else 1 << 20)
    for module in (worker, requests):
        monkeypatch.setattr(module, "MAPPED", 1)
    messages = [Message(RecordDict({"r": record}), node, "train") for node in (1000, 1001)]
    asked = RequestBuffers([tmp_path]).add(messages, timeout=None)
    for request in asked:
        assert request.buffers == (numbers.data, b"" if large else b"sealed")
    app = ClientApp()

    @app.train()
    def echo(message, context):
        assert message.content["r"]["opaque"].data == b"sealed"
        return Message(message.content, reply_to=message)

    runner = worker._Runner(0, spec_in(tmp_path), app)
    for ticket, request in enumerate(asked):
        issue_ticket(tmp_path, ticket)
        where = {"offset": request.region.offset, "length": request.region.length}
        (frame,) = runner.answer([Task(ticket=ticket, slot=0, directory=0, arena=0, **where)])
        assert isinstance(frame, Reply), frame
        reply = read_reply([tmp_path], 0, request, frame)
        assert reply.content["r"]["numbers"].data is numbers.data
        assert reply.content["r"]["opaque"].data == b"sealed"
        assert (reply.content["r"]["opaque"].data is opaque.data) == (not large)


def test_a_reply_that_was_pulled_is_the_callers_alone(sent):
    message, request = sent
    reply = Message(RecordDict({"r": ArrayRecord([np.arange(3)])}), reply_to=message)
    request.finish(reply)
    assert request.pull() is reply
    assert request.reply is not None
    assert not request.reply.content
