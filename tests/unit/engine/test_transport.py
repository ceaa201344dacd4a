import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedtrain.engine.arena import ReadableFile
from fedtrain.engine.codec import Source, decode, unpack
from fedtrain.engine.requests import RequestBuffers
from fedtrain.errors import UsageError

MODEL = 250_000  # float32 values, 1 MB


@pytest.fixture
def requests(tmp_path):
    return RequestBuffers([tmp_path])


def model(seed=0):
    return ArrayRecord([np.random.default_rng(seed).random(MODEL, np.float32), np.zeros(3, np.float32)])


def read(tmp_path, request):
    file = ReadableFile(tmp_path / f"arena-{request.arena.number}")
    proto, places = unpack(file.read(request.region))
    file.close()
    return decode(proto, request.buffers), places


def test_a_model_that_many_messages_share_is_written_once(requests, tmp_path):
    record = model()
    sent = [Message(RecordDict({"m": record, "c": ConfigRecord({"n": n})}), 1000 + n, "train") for n in range(50)]
    requests = requests.add(sent, timeout=None)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1.1 * record.count_bytes()
    for number, request in enumerate(requests):
        message, places = read(tmp_path, request)
        assert message.content == sent[number].content
        assert [place.source for place in places] == [Source.SHARED] * 2


def test_buffers_of_one_message_alone_are_not_kept_by_workers(requests, tmp_path):
    sent = [Message(RecordDict({"m": model(seed)}), 1000 + seed, "train") for seed in range(3)]
    for request, message in zip(requests.add(sent, timeout=None), sent, strict=True):
        received, places = read(tmp_path, request)
        assert received.content == message.content
        assert [place.source for place in places] == [Source.OWN] * 2


def test_a_generator_may_change_what_it_has_given_out(requests, tmp_path):
    def generate():
        content = RecordDict({"c": ConfigRecord({"n": 0})})
        for number in range(3):
            content["c"]["n"] = number
            yield Message(content, 1000 + number, "train")

    requests = requests.add(generate(), timeout=None)
    assert [read(tmp_path, request)[0].content["c"]["n"] for request in requests] == [0, 1, 2]


def test_the_files_of_answered_messages_are_used_again_or_removed(requests, tmp_path):
    def push(count):
        return requests.add([Message(RecordDict({"m": model()}), 1000, "train") for _ in range(count)], timeout=None)

    first, second = push(2), push(1)
    for request in [*first, *second]:
        request.finish(request.error_reply(0, "done"))
    assert [path.name for path in tmp_path.iterdir()] == ["arena-0"]
    push(1)
    assert [path.name for path in tmp_path.iterdir()] == ["arena-2"]


def test_nothing_is_written_when_a_message_is_refused(requests, tmp_path):
    good = Message(RecordDict(), 1000, "train")
    bad = Message(RecordDict({"c": ConfigRecord({"n": 2**70})}), 1001, "train")
    with pytest.raises(UsageError, match="node 1001"):
        requests.add([good, bad], timeout=None)
    assert list(tmp_path.iterdir()) == []
    assert requests.add([], timeout=None) == []


def test_an_app_that_changes_its_message_does_not_affect_others(make_grid, messages):
    app = """
    @app.train()
    def train(message, context):
        record = message.content["m"]
        before = float(record["0"].numpy()[0])
        values = record["0"].numpy()
        values += 1
        record["0"] = Array(values)
        record["1"].data = b"spoilt"
        message.content["c"]["n"] = 100
        message.metadata.group_id = "spoilt"
        return Message(RecordDict({"out": MetricRecord({"before": before, "n": len(record)})}), reply_to=message)
    """
    grid = make_grid(app, nodes=8)
    content = RecordDict({"m": ArrayRecord([np.zeros(1000), np.ones(3)]), "c": ConfigRecord({"n": 1})})
    for _ in range(2):
        replies = grid.send_and_receive(messages(range(8), content))
        assert [reply.content["out"]["before"] for reply in replies] == [0.0] * 8
    assert content["c"]["n"] == 1


def test_echoed_arrays_come_back_as_the_object_that_was_sent(make_grid, messages):
    app = """
    @app.train()
    def train(message, context):
        record = message.content["m"]
        out = ArrayRecord({"same": record["0"], "new": Array(record["1"].numpy() + 1), "again": record["0"]})
        return Message(RecordDict({"out": out}), reply_to=message)
    """
    grid = make_grid(app)
    content = RecordDict({"m": model()})
    for reply in grid.send_and_receive(messages(range(4), content)):
        out = reply.content["out"]
        assert out["same"].data is out["again"].data is content["m"]["0"].data
        assert np.array_equal(out["new"].numpy(), np.ones(3))


def test_replies_of_different_sizes_in_turn_are_read_whole(make_grid, messages):
    app = """
    @app.train()
    def train(message, context):
        n = message.content["c"]["n"]
        return Message(RecordDict({"out": ArrayRecord([np.full(n, n, np.int64), np.arange(n)])}), reply_to=message)
    """
    grid = make_grid(app, nodes=30)
    sizes = [(7919 * number) % 5000 for number in range(30)]
    sent = [Message(RecordDict({"c": ConfigRecord({"n": n})}), 1000 + i, "train") for i, n in enumerate(sizes)]
    for size, reply in zip(sizes, grid.send_and_receive(sent), strict=True):
        full, count = reply.content["out"].to_numpy_ndarrays()
        assert np.array_equal(full, np.full(size, size))
        assert np.array_equal(count, np.arange(size))
