"""Whatever a client does to the bytes of an array, the check neither raises nor lets a bad array pass."""

import io

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.flower.grids.base import collect
from fedtrain.flower.grids.validating import ValidatingGrid
from tests.fakes import InProcessGrid

SENT = np.arange(12, dtype=np.float32).reshape(3, 4)
METRICS = MetricRecord({"num-examples": 1.0})


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


VALID = saved(SENT)

flips = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), min_size=1, max_size=8)
header_flips = st.lists(st.tuples(st.integers(0, 127), st.integers(1, 255)), min_size=1, max_size=4)


def flipped(data, changes):
    damaged = bytearray(data)
    for position, mask in changes:
        damaged[position] ^= mask
    return bytes(damaged)


damaged_bytes = st.one_of(
    flips.map(lambda changes: flipped(VALID, changes)),
    header_flips.map(lambda changes: flipped(VALID, changes)),
    st.integers(0, len(VALID)).map(lambda length: VALID[:length]),
    st.binary(max_size=200).map(lambda tail: VALID + tail),
    st.tuples(st.integers(0, len(VALID)), st.binary(max_size=20)).map(
        lambda change: VALID[: change[0]] + change[1] + VALID[change[0] :]
    ),
    st.binary(max_size=300),
    st.text(max_size=200).map(
        lambda text: b"\x93NUMPY\x01\x00" + len(text.encode()).to_bytes(2, "little") + text.encode()
    ),
)


def through(array):
    grid = ValidatingGrid(
        InProcessGrid(lambda _: RecordDict({"arrays": ArrayRecord({"w": array}), "metrics": METRICS}), [5]),
        metrics=frozenset({"num-examples"}),
        weight_key="num-examples",
        public_weight=1.0,
    )
    content = RecordDict({"arrays": ArrayRecord({"w": Array(SENT)})})
    (reply,) = collect(grid, [Message(content, 5, "train")], timeout=10)
    return reply


@settings(max_examples=300, deadline=None)
@given(damaged_bytes)
def test_damaged_bytes_neither_raise_nor_pass_as_something_else(data):
    reply = through(Array(dtype="float32", shape=(3, 4), stype="numpy.ndarray", data=data))
    if reply.has_error():
        assert reply.error.reason.startswith("unusable update: the array w ")
        return
    value = reply.content["arrays"]["w"].numpy()
    assert (value.dtype, value.shape) == (np.float32, (3, 4))
    assert np.isfinite(value).all()
    # All that can have changed are the values.
    assert len(data) == len(VALID)


@settings(max_examples=100, deadline=None)
@given(
    dtype=st.sampled_from(["float32", "float64", "object", "<U4", "V8", "nonsense", ""]),
    shape=st.lists(st.integers(-3, 10**12), max_size=4).map(tuple),
    stype=st.sampled_from(["numpy.ndarray", "pickle", ""]),
)
def test_false_descriptions_neither_raise_nor_pass(dtype, shape, stype):
    reply = through(Array(dtype=dtype, shape=shape, stype=stype, data=VALID))
    assert reply.has_error() == ((dtype, shape, stype) != ("float32", (3, 4), "numpy.ndarray"))


@given(st.lists(st.floats(width=32), min_size=12, max_size=12))
def test_any_finite_values_pass_and_no_others(values):
    array = np.array(values, np.float32).reshape(3, 4)
    reply = through(Array(array))
    assert reply.has_error() == (not np.isfinite(array).all())
    if not reply.has_error():
        assert reply.content["arrays"]["w"].numpy().tobytes() == array.tobytes()
