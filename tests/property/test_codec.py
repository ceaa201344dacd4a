"""Whatever bytes come, they are refused or they are the one encoding of what they say."""

import contextlib
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fedtrain.crypto import canonical
from fedtrain.errors import TransportError
from fedtrain.messaging import Arrays, Values, decode, encode

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
texts = names
whole = st.integers(-(2**63), 2**64 - 1)
floats = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]) | st.floats()
numbers = whole | floats | st.lists(whole, max_size=5) | st.lists(floats, max_size=5)
others = st.sampled_from([st.booleans(), texts, st.binary(max_size=20)]).flatmap(
    lambda kind: kind | st.lists(kind, max_size=5)
)
types = st.sampled_from(["?", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", ">u8", ">f2", "<f4", "<f8", ">f8"])
arrays = types.flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
records = (
    st.dictionaries(names, arrays, max_size=4).map(lambda items: Arrays(items=items))
    | st.dictionaries(names, numbers, max_size=4).map(lambda items: Values(kind="metrics", items=items))
    | st.dictionaries(names, numbers | others, max_size=4).map(lambda items: Values(kind="config", items=items))
)
contents = st.dictionaries(names, records, max_size=4)


def same(one, other):
    if isinstance(one, list):
        return type(other) is list and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return type(other) is float and struct.pack(">d", one) == struct.pack(">d", other)
    return type(one) is type(other) and one == other


def assert_same(one, other):
    assert list(one) == list(other)
    for record, again in zip(one.values(), other.values(), strict=True):
        assert type(record) is type(again)
        assert list(record.items) == list(again.items)
        for value, read in zip(record.items.values(), again.items.values(), strict=True):
            if isinstance(record, Arrays):
                assert value.shape == read.shape
                assert value.dtype.newbyteorder("<") == read.dtype
                assert value.astype(read.dtype).tobytes() == read.tobytes()
            else:
                assert record.kind == again.kind
                assert same(value, read)


def test_the_comparison_tells_what_differs():
    assert not same(0.0, -0.0)
    assert not same(1, 1.0)
    assert not same(True, 1)
    assert not same([1], [1, 1])
    assert not same(math.nan, struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0])
    with pytest.raises(AssertionError):
        assert_same({"a": Arrays(items={"w": np.zeros(2)})}, {"a": Arrays(items={"w": np.zeros(2, np.float32)})})


@given(contents)
@settings(deadline=None)
def test_a_content_is_read_back_exactly(content):
    data = encode(content)
    again = decode(data)
    assert_same(content, again)
    assert encode(again) == data


def refused_or_canonical(data):
    try:
        content = decode(data)
    except TransportError:
        return False
    assert encode(content) == data
    return True


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_are_refused(data):
    assert not refused_or_canonical(data)
    assert not refused_or_canonical(len(data).to_bytes(8, "little") + data)


changes = st.tuples(
    st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "insert", "delete"]), st.integers(0, 255)
)


@given(contents, st.lists(changes, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_changed_bytes_are_refused_or_the_encoding_of_another_content(content, mutations):
    data = bytearray(encode(content))
    for where, what, byte in mutations:
        place = int(where * len(data))
        data[place : place + (what != "insert")] = b"" if what == "delete" else bytes([byte])
    refused_or_canonical(bytes(data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.sampled_from(["F32", "U8", "b1", "i5", "x2", "arrays"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["0", "1", "bytes", "dtype", "shape", "data_offsets"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values, json_values, st.binary(max_size=20))
@settings(max_examples=150, deadline=None)
def test_other_headers_are_refused_or_the_encoding_of_a_content(entries, described, rest):
    header = entries if isinstance(entries, dict) else {"0": entries}
    text = canonical({**header, "__metadata__": {"fedtrain.content/1": canonical(described).decode()}})
    text += b" " * (-len(text) % 8)
    refused_or_canonical(len(text).to_bytes(8, "little") + text + rest)


@given(st.binary(max_size=20), st.sampled_from([b"[", b"{}", b"[]", b'"",', b"0,", b'{"0":', b'\\"', b"\xff"]))
@settings(max_examples=50, deadline=None)
def test_what_is_refused_takes_no_more_memory_than_its_length_allows(start, repeated):
    text = start + repeated * 3000
    data = len(text).to_bytes(8, "little") + text
    tracemalloc.start()
    with contextlib.suppress(TransportError):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data) + 100_000


@given(st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_a_length_that_is_a_lie_takes_no_memory(length):
    data = length.to_bytes(8, "little") + b"{}"
    tracemalloc.start()
    with contextlib.suppress(TransportError):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
