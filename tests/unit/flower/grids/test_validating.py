import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from numpy.lib import format as npy

from fedtrain.flower.grids.base import collect
from fedtrain.flower.grids.validating import ValidatingGrid
from tests.fakes import RUN_ID, SERVER_NODE, InProcessGrid

SENT = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.zeros(3, np.float32),
    "steps": np.array(4, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}
NAMES = frozenset({"num-examples", "train_loss"})
METRICS = {"num-examples": 20.0, "train_loss": 0.5}


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_bytes(header):
    """Return a file that says this in its header and holds the values of the sent weight."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + SENT["weight"].tobytes()


def raw(data, name="weight", **facts):
    facts = {"dtype": str(SENT[name].dtype), "shape": SENT[name].shape, "stype": "numpy.ndarray"} | facts
    return Array(**facts, data=data)


def record(**changes):
    return ArrayRecord({name: Array(value) for name, value in SENT.items()} | changes)


def update(arrays=None, metrics=None):
    return RecordDict(
        {
            "arrays": record() if arrays is None else arrays,
            "metrics": MetricRecord(METRICS if metrics is None else metrics),
        }
    )


def ask(answer, *, public_weight=None, metrics=NAMES, powered=None):
    """Send the arrays to one node and return what comes out of the checked grid."""
    inner = InProcessGrid(lambda _: answer, [5])
    grid = ValidatingGrid(
        inner, metrics=metrics, weight_key="num-examples", public_weight=public_weight, powered=powered
    )
    content = RecordDict({"arrays": record(), "config": ConfigRecord({"server-round": 1})})
    (reply,) = collect(grid, [Message(content, 5, "train")], timeout=10)
    return reply


def refused(answer, **options):
    """Return why an answer did not pass."""
    reply = ask(answer, **options)
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.error.code == ErrorCode.MOD_FAILED_PRECONDITION
    assert reply.metadata.src_node_id == 5
    assert reply.error.reason.startswith("unusable update: ")
    return reply.error.reason


def assert_passed(reply):
    assert not reply.has_error()
    assert list(reply.content) == ["arrays", "metrics"]
    assert list(reply.content["arrays"]) == list(SENT)
    for name, value in SENT.items():
        received = reply.content["arrays"][name].numpy()
        assert (received.dtype, received.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(received, value)
    assert reply.metadata.src_node_id == 5


def test_a_good_reply_passes_unchanged():
    reply = ask(update())
    assert_passed(reply)
    assert dict(reply.content["metrics"]) == METRICS


def test_arrays_in_another_order_are_put_in_order():
    names = list(SENT)[::-1]
    assert_passed(ask(update(ArrayRecord({name: Array(SENT[name]) for name in names}))))


def test_values_in_fortran_order_pass():
    turned = Array(np.asfortranarray(SENT["weight"]))
    assert turned.data != Array(SENT["weight"]).data
    assert_passed(ask(update(record(weight=turned))))


def test_nothing_passes_that_was_not_checked():
    answer = RecordDict(
        {"mine": record(), "own": MetricRecord(METRICS), "note": ConfigRecord({"anything": b"x" * 1000})}
    )
    # Flower ends the run if the records of two clients have different names.
    assert_passed(ask(answer))


def test_a_reply_comes_from_the_node_that_was_asked_whatever_it_says():
    def forged(received):
        metadata = Metadata(
            run_id=RUN_ID,
            message_id="x",
            src_node_id=6,
            dst_node_id=SERVER_NODE,
            reply_to_message_id=received.metadata.message_id,
            group_id="",
            created_at=0.0,
            ttl=1.0,
            message_type="train",
        )
        if received.metadata.dst_node_id == 5:
            return make_message(metadata, content=update())
        return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, "lost"))

    grid = ValidatingGrid(InProcessGrid(forged, [5, 7]), metrics=NAMES, weight_key="num-examples", public_weight=None)
    content = RecordDict({"arrays": record()})
    good, bad = collect(grid, [Message(content, node, "train") for node in (5, 7)], timeout=10)
    assert_passed(good)
    assert (bad.metadata.src_node_id, bad.error.reason) == (7, "lost")


def test_an_error_stays_an_error():
    reply = ask(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "out of memory"))
    assert (reply.error.code, reply.error.reason) == (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "out of memory")


def test_a_grid_that_can_send_nothing_gets_nothing_back():
    class Full(InProcessGrid):
        def push_messages(self, messages):
            return []

    grid = ValidatingGrid(Full(lambda _: update(), [5]), metrics=NAMES, weight_key="num-examples", public_weight=None)
    assert collect(grid, [Message(RecordDict({"arrays": record()}), 5, "train")], timeout=10) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    weight = SENT["weight"].copy()
    weight[1, 2] = weight[0, 0] = value
    assert "the array weight has 2 values that are not finite" in refused(update(record(weight=Array(weight))))


def test_complex_values_that_are_not_finite():
    grid = ValidatingGrid(
        InProcessGrid(
            lambda _: RecordDict(
                {"arrays": ArrayRecord({"z": Array(np.array([complex(0, np.nan)]))}), "metrics": MetricRecord(METRICS)}
            ),
            [5],
        ),
        metrics=NAMES,
        weight_key="num-examples",
        public_weight=None,
    )
    content = RecordDict({"arrays": ArrayRecord({"z": Array(np.array([1j]))})})
    (reply,) = collect(grid, [Message(content, 5, "train")], timeout=10)
    assert "the array z has 1 values that are not finite" in reply.error.reason


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (np.zeros((3, 2), np.float32), r"is float32[3, 2], not float32[2, 3]"),
        (np.zeros(6, np.float32), r"is float32[6], not float32[2, 3]"),
        (np.zeros((1, 2, 3), np.float32), r"is float32[1, 2, 3], not float32[2, 3]"),
        (np.zeros((2, 3), np.float64), r"is float64[2, 3], not float32[2, 3]"),
        (np.zeros((2, 3), np.int32), r"is int32[2, 3], not float32[2, 3]"),
        (np.zeros((2, 3), ">f4"), r"is >f4[2, 3], not float32[2, 3]"),
    ],
)
def test_other_shapes_and_types(value, described):
    assert f"the array weight {described}" in refused(update(record(weight=Array(value))))


@pytest.mark.parametrize("value", [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64), np.zeros(6, ">f4")])
def test_bytes_that_are_not_what_the_array_says_of_itself(value):
    assert "does not begin with the npy header of its type and shape" in refused(
        update(record(weight=raw(saved(value))))
    )


def test_missing_extra_and_renamed_arrays():
    missing = record()
    del missing["bias"]
    assert "the arrays ['bias'] are missing or were never sent" in refused(update(missing))
    assert "the arrays ['more'] are" in refused(update(record(more=Array(np.zeros(1)))))
    missing["bais"] = Array(SENT["bias"])
    assert "the arrays ['bais', 'bias'] are" in refused(update(missing))
    assert "are missing or were never sent" in refused(update(ArrayRecord()))


VALID = saved(SENT["weight"])


@pytest.mark.parametrize("length", [0, 5, 10, 64, 127, len(VALID) - 1])
def test_truncated_bytes(length):
    problem = refused(update(record(weight=raw(VALID[:length]))))
    assert "the array weight does not" in problem


def test_more_bytes_than_the_shape_takes():
    assert "does not hold as many bytes" in refused(update(record(weight=raw(VALID + b"\0"))))


def test_a_header_that_claims_a_huge_shape_allocates_nothing():
    huge = npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 1000), }")
    tracemalloc.start()
    try:
        refused(update(record(weight=raw(huge))))
        refused(update(record(weight=raw(huge, shape=(4_000_000_000, 1000)))))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        "-" * 9000 + "1",
        "(" * 9000,
        "{'descr': '<f4,(', 'fortran_order': False, 'shape': (2, 3)}",
        "{{}: 1}",
        "'''",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}",
        "\0",
        "",
    ],
)
def test_headers_that_break_the_parser_are_not_parsed(header):
    data = npy_bytes(header)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - each in its own way, or a warning
        npy.read_array(io.BytesIO(data))
    assert "does not begin with the npy header" in refused(update(record(weight=raw(data))))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_pickles_and_archives_are_not_opened():
    objects = np.empty((2, 3), object)
    objects[:] = Trap()
    archive = io.BytesIO()
    np.savez(archive, weight=SENT["weight"])
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("weight.npy", bytes(1_000_000))
    for data in (saved(objects, allow_pickle=True), archive.getvalue(), bomb.getvalue(), pickle.dumps(Trap())):
        assert "does not begin with the npy header" in refused(update(record(weight=raw(data))))
    said = raw(saved(objects, allow_pickle=True), dtype="object")
    assert "the array weight is object[2, 3], not float32[2, 3]" in refused(update(record(weight=said)))


def test_another_serialization():
    assert "is in the format 'pickle', and 'numpy.ndarray' is allowed" in refused(
        update(record(weight=raw(VALID, stype="pickle")))
    )


def test_other_numbers_of_records():
    two = RecordDict({"arrays": record(), "more": record(), "metrics": MetricRecord(METRICS)})
    assert "2 array records and 1 metric records; 1 of each is allowed" in refused(two)
    assert "1 array records and 0 metric records" in refused(RecordDict({"arrays": record()}))
    more = RecordDict({"arrays": record(), "a": MetricRecord(METRICS), "b": MetricRecord(METRICS)})
    assert "1 array records and 2 metric records" in refused(more)
    assert "0 array records and 0 metric records" in refused(RecordDict())


def test_other_names_of_metrics():
    assert "the metrics are ['num-examples'], not ['num-examples', 'train_loss']" in refused(
        update(metrics={"num-examples": 1.0})
    )
    assert "the metrics are ['num-examples', 'secret', 'train_loss']" in refused(
        update(metrics=METRICS | {"secret": 1.0})
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [], [0.5], [0.5, float("nan")]])
def test_metrics_that_are_not_one_finite_number(value):
    # Flower fails on the sum of a number and a list.
    assert "the metric train_loss is" in refused(update(metrics=METRICS | {"train_loss": value}))


def test_a_metric_that_is_raised_to_a_power_is_not_negative():
    problem = refused(update(metrics=METRICS | {"train_loss": -0.3}), powered="train_loss")
    assert "the metric train_loss is -0.3, and the strategy raises it to a power" in problem
    for options in ({}, {"powered": "num-examples"}):
        assert_passed(ask(update(metrics=METRICS | {"train_loss": -0.3}), **options))
    assert_passed(ask(update(metrics=METRICS | {"train_loss": 0.0}), powered="train_loss"))


@pytest.mark.parametrize("value", [0, 0.0, -1.0, -5, 2.0**31 + 1, 10**300, float("nan"), float("inf"), [20.0], []])
def test_weights_that_would_spoil_the_average(value):
    problem = refused(update(metrics=METRICS | {"num-examples": value}))
    assert "the weight is" in problem or "the metric num-examples is" in problem


@pytest.mark.parametrize("value", [1, 1e-9, 2.0**31])
def test_weights_that_are_allowed(value):
    assert_passed(ask(update(metrics=METRICS | {"num-examples": value})))


def test_only_the_public_weight_is_allowed_where_there_is_one():
    options = {"public_weight": 1.0, "metrics": frozenset({"num-examples"})}
    assert_passed(ask(update(metrics={"num-examples": 1.0}), **options))
    for value in (20.0, 2, 0.0, 1.0 + 2**-52, [1.0]):
        problem = refused(update(metrics={"num-examples": value}), **options)
        assert "only the public 1 is allowed" in problem or "one finite number is allowed" in problem
    # Neither does a loss get through.
    assert "the metrics are" in refused(update(metrics={"num-examples": 1.0, "train_loss": 0.5}), **options)


def test_a_bad_reply_does_not_harm_the_others():
    def answer(message):
        return (
            update(record(bias=Array(np.full(3, np.nan, np.float32))))
            if message.metadata.dst_node_id == 6
            else update()
        )

    grid = ValidatingGrid(
        InProcessGrid(answer, [5, 6, 7]), metrics=NAMES, weight_key="num-examples", public_weight=None
    )
    content = RecordDict({"arrays": record()})
    replies = collect(grid, [Message(content, node, "train") for node in (5, 6, 7)], timeout=10)
    assert [reply.has_error() for reply in replies] == [False, True, False]


def whole(weight, bias=None):
    arrays = {"weight": Array(weight), "bias": Array(np.zeros(3, np.int32) if bias is None else bias)}
    inner = InProcessGrid(lambda _: update(arrays=record(**arrays)), [5])
    grid = ValidatingGrid(
        inner,
        metrics=NAMES,
        weight_key="num-examples",
        public_weight=None,
        trained=frozenset({"weight", "bias"}),
        fixed=True,
        largest=100,
    )
    content = RecordDict({"arrays": record(), "config": ConfigRecord({"server-round": 1})})
    (reply,) = collect(grid, [Message(content, 5, "train")], timeout=10)
    return reply


def test_whole_numbers_pass_in_the_place_of_what_is_trained():
    reply = whole(np.array([[100, -100, 0], [1, 2, 3]], np.int32))
    assert not reply.has_error()
    assert reply.content["arrays"]["weight"].dtype == "int32"


@pytest.mark.parametrize(
    ("weight", "described"),
    [
        (np.array([[101, 0, 0], [0, 0, 0]], np.int32), "has a whole number beyond 100"),
        (np.array([[0, 0, 0], [0, 0, -(2**31)]], np.int32), "has a whole number beyond 100"),
        (np.zeros((2, 3), np.float32), "is float32[2, 3], not int32[2, 3]"),
        (np.zeros((3, 2), np.int32), "is int32[3, 2], not int32[2, 3]"),
    ],
)
def test_other_whole_numbers_do_not(weight, described):
    reply = whole(weight)
    assert reply.has_error()
    assert described in reply.error.reason
