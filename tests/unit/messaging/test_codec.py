import contextlib
import json
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load

from fedtrain.crypto import canonical
from fedtrain.errors import TransportError
from fedtrain.messaging import LARGEST, Arrays, Values, decode, encode
from fedtrain.messaging.codec import LARGEST_HEADER

TYPES = ["?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"]
CONTENT = {
    "model": Arrays(items={"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "on": np.array([True, False])}),
    "config": Values(kind="config", items={"key": b"123", "rate": 0.5, "parts": [b"4", b""]}),
}


def header_of(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header, rest):
    text = header if isinstance(header, bytes) else canonical(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + rest


def described(*records):
    return {"__metadata__": {"fedtrain.content/1": canonical(list(records)).decode()}}


def arrays(**items):
    return {"model": Arrays(items=items)}


def round_trip(array):
    (record,) = decode(encode(arrays(w=array))).values()
    return record.items["w"]


def test_a_content_is_read_back_in_its_order():
    content = decode(encode(CONTENT))
    assert list(content) == ["model", "config"]
    assert list(content["model"].items) == ["weight", "on"]
    assert content["config"] == CONTENT["config"]
    for name, array in CONTENT["model"].items.items():
        np.testing.assert_array_equal(content["model"].items[name], array, strict=True)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0, 3), (2, 3), (1,) * 32])
@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_of_every_type_and_shape_are_read_back(dtype, shape):
    array = np.frombuffer(bytes([0, 1] * 4 * max(1, int(np.prod(shape)))), dtype=dtype)[: int(np.prod(shape))]
    np.testing.assert_array_equal(round_trip(array.reshape(shape)), array.reshape(shape), strict=True)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_keep_their_bits(dtype):
    bits = np.array([0x7FC00001, 0x7F800001, 0xFFC00000, 0x80000000, 0x7F800000, 1], dtype=np.uint32)
    array = np.frombuffer(bits.tobytes(), dtype=f"<{dtype}")
    assert round_trip(array).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array[::-1][::-1],
    ],
)
def test_how_an_array_lies_in_memory_makes_no_difference(change):
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    changed = change(array)
    assert encode(arrays(w=changed)) == encode(arrays(w=array))
    np.testing.assert_array_equal(round_trip(changed), array, strict=True)


def test_arrays_are_read_only_views_of_aligned_bytes():
    content = arrays(small=np.ones(3, np.int8), large=np.ones(1000))
    data = encode(content)
    tracemalloc.start()
    views = decode(data)["model"].items
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for name, view in views.items():
        assert view.flags.aligned
        assert not view.flags.writeable
        assert np.shares_memory(view, np.frombuffer(data, np.uint8)), name
    assert peak > 0
    large = encode(arrays(w=np.ones(1_000_000)))
    tracemalloc.start()
    decode(large)
    assert tracemalloc.get_traced_memory()[1] < peak * 2
    tracemalloc.stop()


def test_arrays_that_are_not_aligned_are_copied():
    data = bytearray(b"x" + encode(CONTENT))
    content = decode(memoryview(data)[1:])
    data[:] = bytes(len(data))
    weight = content["model"].items["weight"]
    assert weight.flags.aligned
    assert not weight.flags.writeable
    np.testing.assert_array_equal(weight, CONTENT["model"].items["weight"])


def test_views_of_bytes_that_can_change_cannot_be_written_through():
    data = bytearray(encode(arrays(w=np.zeros(3, np.uint8))))
    assert not decode(memoryview(data))["model"].items["w"].flags.writeable


def test_the_header_is_canonical_json_and_aligns_what_follows():
    data = encode(CONTENT)
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length]
    assert length % 8 == 0
    header = json.loads(text)
    assert canonical(header) == text.rstrip()
    (version, records), *_ = header["__metadata__"].items()
    assert version == "fedtrain.content/1"
    assert canonical(json.loads(records)).decode() == records


def test_the_safetensors_library_reads_it():
    content = arrays(**{dtype: np.ones((2, 3), dtype) for dtype in TYPES}, scalar=np.array(3.0), empty=np.zeros((0, 2)))
    items = content["model"].items
    read = load(encode(content | {"config": CONTENT["config"]}))
    assert read.pop("bytes").tobytes() == b"1234"
    assert list(map(int, sorted(read, key=int))) == list(range(len(items)))
    for place, array in enumerate(items.values()):
        np.testing.assert_array_equal(read[str(place)], array, strict=True)


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]", "U3", "S3", "O", "V4", "f4,i2", np.longdouble])
def test_other_types_are_refused(dtype):
    with pytest.raises(TransportError, match="record 'model' cannot be encoded: it is of type"):
        encode(arrays(w=np.zeros(2, dtype)))


def test_what_cannot_be_decoded_is_not_encoded():
    value = "x" * LARGEST_HEADER
    for content, why in (
        ({"x" * 1001: Values(kind="config", items={})}, "no text of at most 1000 letters"),
        ({5: Values(kind="config", items={})}, "no text"),
        (arrays(**{"x" * 1001: np.zeros(1)}), "no text"),
        ({str(number): Values(kind="config", items={}) for number in range(1001)}, "1001 records"),
        (
            {"m": Values(kind="metrics", items={str(number): 1 for number in range(100_001)})},
            "100001 arrays and values",
        ),
        ({"c": Values(kind="config", items={"x": value})}, "long texts bytes"),
        ({"c": Values(kind="config", items={"x": "\ud800"})}, "not Unicode"),
        ({"\ud800": Values(kind="config", items={})}, "not Unicode"),
        (arrays(w=np.zeros((1,) * 33)), "33 dimensions"),
        (arrays(w=np.zeros((0, LARGEST + 1))), "at most"),
        (arrays(w=np.broadcast_to(np.zeros(1, np.uint8), (2**31,))), "at most"),
        (arrays(w=np.broadcast_to(np.zeros(1, np.uint8), (LARGEST,))), f"{LARGEST} are allowed"),
        (arrays(v=np.zeros(5), w=np.broadcast_to(np.zeros(1), (LARGEST // 8,))), f"{LARGEST} are allowed"),
    ):
        with pytest.raises(TransportError, match=why):
            encode(content)


def test_a_limit_is_kept_to():
    data = encode(CONTENT)
    assert decode(data, limit=len(data)).keys() == CONTENT.keys()
    with pytest.raises(TransportError, match=f"content of {len(data)} bytes .* at most {len(data) - 1} are allowed"):
        decode(data, limit=len(data) - 1)


@pytest.mark.parametrize("length", [0, 1, 2**20, LARGEST_HEADER, 2**63, 2**64 - 1])
def test_a_header_longer_than_what_is_there_is_refused(length):
    for rest in (b"", b"{}"):
        with pytest.raises(TransportError, match="header"):
            decode(length.to_bytes(8, "little") + rest)
    with pytest.raises(TransportError, match="ends at byte 8388616, and at most 8388608"):
        decode((2**23).to_bytes(8, "little") + bytes(2**23))


def damaged():
    data = encode(CONTENT)
    header, rest = header_of(data)
    weight, metadata = header["0"], header["__metadata__"]

    def changed(**entries):
        return with_header({**header, **entries}, rest)

    yield "empty", b""
    yield "cut", data[:-1]
    yield "more", data + b"\0"
    yield "no metadata", with_header({name: entry for name, entry in header.items() if name[0] != "_"}, rest)
    yield "more metadata", changed(__metadata__={**metadata, "more": ""})
    yield "other version", changed(__metadata__={"fedtrain.content/2": metadata["fedtrain.content/1"]})
    yield "metadata that is no text", changed(__metadata__={"fedtrain.content/1": 5})
    yield "metadata that is no JSON", changed(__metadata__={"fedtrain.content/1": "["})
    yield "records that are no list", changed(__metadata__={"fedtrain.content/1": "{}"})
    yield "spaces in metadata", changed(__metadata__={"fedtrain.content/1": metadata["fedtrain.content/1"] + " "})
    yield "another array", changed(**{"5": weight})
    yield "unknown name", changed(weight=weight)
    yield "missing array", with_header({name: entry for name, entry in header.items() if name != "1"}, rest)
    yield "unknown field", changed(**{"0": weight | {"more": 1}})
    for name, value in (
        ("dtype", "BF16"),
        ("dtype", "f32"),
        ("dtype", "F64"),
        ("dtype", None),
        ("shape", [2, 4]),
        ("shape", [-2, -3]),
        ("shape", [2, True]),
        ("shape", [2.5, 3]),
        ("shape", "23"),
        ("shape", [2**53 - 1, 2**53 - 1]),
        ("shape", [1] * 33),
        ("data_offsets", [0, 23]),
        ("data_offsets", [1, 25]),
        ("data_offsets", [4, 28]),
        ("data_offsets", [24, 0]),
        ("data_offsets", [0]),
        ("data_offsets", [0, 24, 0]),
        ("data_offsets", [False, 24]),
        ("data_offsets", None),
    ):
        yield f"{name} {str(value)[:20]}", changed(**{"0": weight | {name: value}})
        without = {key: entry for key, entry in weight.items() if key != name}
        yield f"no {name}", changed(**{"0": without})
    text = canonical(header)
    yield "twice the same key", with_header(b'{"0":' + canonical(weight) + b"," + text[1:], rest)
    yield (
        "reordered",
        with_header(json.dumps(dict(reversed(header.items())), separators=(",", ":")).encode(), rest),
    )
    yield "spaces", with_header(json.dumps(header, sort_keys=True).encode(), rest)
    yield "escapes", with_header(text.replace(b"dtype", b"\\u0064type", 1), rest)
    yield "tab instead of space", with_header(text + b"\t", rest)
    yield "padded by eight more", with_header(text + b" " * 8, rest)
    text = canonical(described(["x", "config", [["a", "s"]]]))
    yield "not padded", len(text).to_bytes(8, "little") + text
    yield "not UTF-8", with_header(text.replace(b"weight", b"weigh\xff"), rest)
    yield "UTF-16", with_header(text.decode().encode("utf-16"), rest)
    yield "byte order mark", with_header(b"\xef\xbb\xbf" + text, rest)
    yield "deep", with_header(b"[" * 1_000_000, b"")
    yield "deep records", with_header(described() | {"__metadata__": {"fedtrain.content/1": "[" * 1_000_000}}, b"")
    yield "long number", with_header(b'{"0":' + b"1" * 10_000 + b"}", b"")
    yield "not finite", with_header(b'{"0":NaN}', b"")
    yield "a text", with_header(b'"fedtrain.content/1"', b"")
    yield "bool of two", data[: -len(b"1234") - 2] + b"\1\2" + b"1234"
    row = {"dtype": "U8", "shape": [4], "data_offsets": [26, 30]}
    yield "row without values", with_header(described() | {"bytes": row | {"data_offsets": [0, 4]}}, b"1234")
    yield "row of two dimensions", changed(bytes=row | {"shape": [2, 2]})
    yield "row of other type", changed(bytes=row | {"dtype": "I8"})
    yield "empty row", with_header(described() | {"bytes": row | {"shape": [0], "data_offsets": [0, 0]}}, b"")
    for name, records in {
        "a record that is no list": ["x"],
        "a record of two": [["x", "arrays"]],
        "a record of four": [["x", "arrays", [], []]],
        "a name that is no text": [[5, "arrays", []]],
        "a long name": [["x" * 1001, "arrays", []]],
        "another kind": [["x", "other", []]],
        "items that are no list": [["x", "arrays", {}]],
        "an array that is not there": [["x", "arrays", ["w"]]],
        "a value that is no pair": [["x", "config", ["b1"]]],
        "a value of three": [["x", "config", [["a", "b1", "b1"]]]],
        "a value whose name is no text": [["x", "config", [[5, "b1"]]]],
        "two records of one name": [["x", "config", []], ["x", "config", []]],
        "two values of one name": [["x", "config", [["a", "b1"], ["a", "b1"]]]],
        "bytes that are not there": [["x", "config", [["a", "x1"]]]],
    }.items():
        yield name, with_header(described(*records), b"")
    one = {"0": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    for name, record in {
        "an array that belongs to no record": ["x", "arrays", []],
        "an array whose name is no text": ["x", "arrays", [5]],
    }.items():
        yield name, with_header({**described(record), **one}, b"1")
    two = {str(place): {"dtype": "U8", "shape": [1], "data_offsets": [place, place + 1]} for place in range(2)}
    yield "two arrays of one name", with_header({**described(["x", "arrays", ["w", "w"]]), **two}, b"12")


DAMAGED = list(damaged())


@pytest.mark.parametrize("data", [data for _, data in DAMAGED], ids=[name for name, _ in DAMAGED])
def test_what_is_no_encoding_is_refused(data):
    with pytest.raises(TransportError, match=f"^a content of {len(data)} bytes cannot be decoded: ."):
        decode(data)


@pytest.mark.parametrize(
    "header",
    [
        b"[" + b"{}," * 200_000 + b"{}]",
        canonical(described() | {"__metadata__": {"fedtrain.content/1": "[" + "[]," * 200_000 + "[]]"}}),
        canonical({**described(), **{str(number): {} for number in range(50_000)}}),
        canonical(described(["x", "config", [["a", ["b1"] * 30_000]]])),
    ],
    ids=["objects", "lists", "arrays", "values"],
)
def test_what_is_parsed_takes_memory_in_proportion_to_the_header_alone(header):
    data = with_header(header, b"")
    tracemalloc.start()
    with contextlib.suppress(TransportError):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data)
