import copy
import os

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedtrain.engine import inplace, requests, worker
from fedtrain.engine.arena import ReadableFile, Region
from fedtrain.engine.codec import decode, encode_message
from fedtrain.engine.inplace import ArrayInFile, BytesInFile

LARGE = {"x": np.arange(40_000.0), "f": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "n": np.array(True)}


@pytest.fixture
def here(tmp_path):
    """Give a function that puts an array into a file, after some bytes, and returns it as it comes from there."""

    def put(array, before=64):
        path = tmp_path / "arena"
        path.write_bytes(os.urandom(before) + array.data)
        source = BytesInFile(ReadableFile(path), Region(offset=before, length=len(array.data)))
        return ArrayInFile(dtype=array.dtype, shape=array.shape, stype=array.stype, source=source)

    return put


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("before", [0, 64, 4096, 5000])
def test_an_array_in_a_file_is_the_array(here, name, before):
    array = Array(LARGE[name])
    found = here(array, before)
    values = found.numpy()
    assert found.unread.held is None
    assert (values.dtype, values.flags.f_contiguous) == (LARGE[name].dtype, LARGE[name].flags.f_contiguous)
    np.testing.assert_array_equal(values, LARGE[name])
    assert isinstance(found, Array)
    assert found == array
    assert array == found
    assert found != Array(LARGE[name][None])
    assert (found.object_id, repr(found)) == (array.object_id, repr(array))
    assert found.data is found.data
    assert type(found.data) is bytes
    np.testing.assert_array_equal(found.numpy(), LARGE[name])
    for copied in (copy.copy(found), copy.deepcopy(found), ArrayRecord({"x": found})["x"]):
        assert type(copied) is Array
        assert copied == array


def test_to_write_values_changes_nothing_else(here):
    array = Array(LARGE["x"])
    found = here(array)
    values = found.numpy()
    values += 1
    np.testing.assert_array_equal(found.numpy(), LARGE["x"])
    assert found.data == array.data


def test_bytes_that_were_set_are_those_of_the_array(here):
    found, other = here(Array(LARGE["x"])), Array(LARGE["f"])
    found.data = other.data
    assert found.unread is None
    np.testing.assert_array_equal(found.numpy(), LARGE["f"])


@pytest.mark.parametrize(
    "array",
    [
        Array("float64", (4,), "numpy.ndarray", b"no file of numpy"),
        Array("float64", (4,), "numpy.ndarray", Array(np.arange(4.0)).data + b"more"),
        Array("float64", (4,), "own", Array(np.arange(4.0)).data),
    ],
)
def test_what_is_no_plain_file_of_numpy_is_as_flower_has_it(here, array):
    def outcome(each):
        try:
            return each.numpy().tolist()
        except (ValueError, TypeError) as error:
            return str(error)

    assert outcome(here(array)) == outcome(array)


def received(array):
    message = Message(RecordDict({"m": ArrayRecord({"x": array})}), 1000, "train")
    encoded = encode_message(message)
    return decode(encoded.proto, encoded.buffers).content["m"]["x"]


VALUES = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.array(2.5, np.float16),
    np.zeros((0, 3), np.int8),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
    np.arange(3, dtype=">f4"),
    np.array(["a", "bc"]),
    np.array(["2026-01-01"], "datetime64[D]"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value.dtype} {value.shape}")
def test_a_received_array_is_the_array(value):
    array = Array(value)
    found = received(array)
    assert found == array
    assert array == found
    assert found != Array(np.arange(7))
    assert found.data is array.data
    assert (found.object_id, repr(found)) == (array.object_id, repr(array))
    values = found.numpy()
    assert (values.dtype, values.shape) == (value.dtype, value.shape)
    assert values.flags.c_contiguous == array.numpy().flags.c_contiguous
    np.testing.assert_array_equal(values, value)
    assert values.flags.writeable
    values.fill(values.flat[0] if values.size else 0)
    np.testing.assert_array_equal(found.numpy(), value)
    assert type(copy.deepcopy(found)) is Array


def test_a_received_array_whose_fields_do_not_agree_is_read_as_flower_reads_it():
    array = Array("float32", (5,), "numpy.ndarray", Array(np.arange(3.0)).data)
    np.testing.assert_array_equal(received(array).numpy(), np.arange(3.0))
    changed = received(Array(np.arange(3.0)))
    changed.data = Array(np.arange(4.0)).data
    np.testing.assert_array_equal(changed.numpy(), np.arange(4.0))
    for name in ("strange", "object"):
        np.testing.assert_array_equal(received(Array(name, (3,), "numpy.ndarray", array.data)).numpy(), np.arange(3.0))


APP = """
import gc
KEPT = []

@app.train()
def train(message, context):
    record = message.content["m"]
    before = dict(record)
    values = record["large"].numpy()
    again = Array("float32", (300_000,), "numpy.ndarray", record["read"].data)
    out = ArrayRecord({"same": record["large"], "again": again})
    changed = values.copy() + context.node_id
    if context.run_config["keep"]:
        KEPT.append((before, values))
    values += 1
    out["changed"] = Array(changed)
    kept = [
        float(record["large"].numpy().sum() + record["read"].numpy().sum()) for record, _ in KEPT
    ] + [float(values.sum()) for _, values in KEPT]
    facts = {"kinds": sum(type(each).__name__ == "ArrayInFile" for each in before.values()), "kept": kept or [0.0]}
    return Message(RecordDict({"out": out, "facts": MetricRecord(facts)}), reply_to=message)
"""


@pytest.mark.parametrize("keep", [False, True])
def test_large_models_stay_in_shared_memory_and_apps_see_the_same(make_grid, messages, keep):
    grid = make_grid(APP, nodes=4, run_config={"keep": keep}, workers=2)
    for number in range(3):
        size = 9 << 20  # with 4 bytes a number, 38 MB
        content = {"large": np.full(size, number, np.float32), "read": np.full(300_000, number + 1, np.float32)}
        record = ArrayRecord({name: Array(value) for name, value in content.items()})
        for place, reply in enumerate(grid.send_and_receive(messages(range(4), RecordDict({"m": record})))):
            assert not reply.has_error(), reply.error.reason
            out, facts = reply.content["out"], reply.content["facts"]
            assert facts["kinds"] == 2
            assert out["same"].data is record["large"].data
            assert out["again"].data is record["read"].data
            np.testing.assert_array_equal(out["changed"].numpy()[:3], number + 1000.0 + place)
            if keep:
                half = len(facts["kept"]) // 2
                rounds = [round((total - 300_000) / (size + 300_000)) for total in facts["kept"][:half]]
                assert rounds == sorted(rounds)
                assert rounds[-1] == number
                assert [round(total / size) for total in facts["kept"][half:]] == [each + 1 for each in rounds]


def test_buffers_begin_where_tensors_do(tmp_path):
    record = ArrayRecord({"small": Array(np.zeros(3, np.int8)), "large": Array(np.zeros(300_000, np.float32))})
    buffers = requests.RequestBuffers([tmp_path])
    (request,) = buffers.add([Message(RecordDict({"m": record}), 1000, "train")], timeout=None)
    data = (tmp_path / worker.arena_name(request.arena.number)).read_bytes()
    assert data.index(record["large"].data) % 64 == 0


@pytest.mark.parametrize("size", [0, 1, inplace._PART - 1, inplace._PART, inplace._PART + 1, 2 * inplace._PART + 7])
def test_parts_of_a_file_are_read_and_not_kept(here, size):
    data = os.urandom(size)
    source = here(Array("uint8", (size,), "own", data)).unread
    assert b"".join(source.parts()) == data
    assert max(map(len, source.parts()), default=0) <= inplace._PART
    assert source.held is None
    assert source.read() == data
    assert list(source.parts()) == [data]
