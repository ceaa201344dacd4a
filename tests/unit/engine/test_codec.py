import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.engine.codec import (
    MAX_REASON,
    CodecError,
    Failure,
    FrameError,
    Place,
    Ready,
    Reply,
    Source,
    Stop,
    Task,
    Unusable,
    decode,
    encode_message,
    limit_reason,
    pack,
    pack_frame,
    unpack,
    unpack_frame,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def scalars_and_lists(*kinds):
    return st.one_of(*kinds, *[st.lists(kind, max_size=4) for kind in kinds])


ARRAYS = st.builds(
    lambda dtype, shape, stype, data: Array(dtype=dtype, shape=tuple(shape), stype=stype, data=data),
    TEXT,
    st.lists(st.integers(0, 2**31 - 1), max_size=4),
    TEXT,
    st.binary(max_size=50),
)
RECORDS = st.one_of(
    st.dictionaries(TEXT, ARRAYS, max_size=4).map(ArrayRecord),
    st.dictionaries(TEXT, scalars_and_lists(INT64, FLOATS), max_size=4).map(MetricRecord),
    st.dictionaries(
        TEXT, scalars_and_lists(INT64, FLOATS, st.booleans(), TEXT, st.binary(max_size=20)), max_size=4
    ).map(ConfigRecord),
)
CONTENTS = st.dictionaries(TEXT, RECORDS, max_size=4).map(RecordDict)


def metadata(**changes):
    values = {
        "run_id": 2**63 - 1,
        "message_id": "an id",
        "src_node_id": 1,
        "dst_node_id": 1003,
        "reply_to_message_id": "",
        "group_id": "3",
        "created_at": 1234.5,
        "ttl": 60.0,
        "message_type": "train.fit",
        "src_task_id": 1,
    }
    return Metadata(**(values | changes))


def typed(content):
    """Everything in a content, with the types and the order that == does not compare."""
    return [
        (
            key,
            type(record),
            [(name, Array if isinstance(value, Array) else type(value), value) for name, value in record.items()],
        )
        for key, record in content.items()
    ]


@given(CONTENTS)
def test_any_content_survives(content):
    message = make_message(metadata=metadata(), content=content)
    encoded = encode_message(message)
    places = [Place(source=Source.OWN, first=2**40 + index, second=len(b)) for index, b in enumerate(encoded.buffers)]
    proto, unpacked = unpack(pack(encoded.proto, places))
    decoded = decode(proto, encoded.buffers)
    assert unpacked == places
    assert typed(decoded.content) == typed(content)
    assert vars(decoded.metadata) == vars(message.metadata)


def test_errors_survive():
    encoded = encode_message(make_message(metadata=metadata(dst_task_id=5), error=Error(2, "reason")))
    decoded = decode(encoded.proto, encoded.buffers)
    assert decoded.error == Error(2, "reason")
    assert not decoded.has_content()
    assert decoded.metadata.dst_task_id == 5


def test_a_decoded_array_behaves_as_one_that_was_constructed():
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    original = Message(RecordDict({"r": ArrayRecord([values])}), metadata=metadata())
    encoded = encode_message(original)
    array = decode(encoded.proto, encoded.buffers).content["r"]["0"]
    assert np.array_equal(array.numpy(), values)
    assert array.object_id == original.content["r"]["0"].object_id
    array.data = b"changed"
    assert array.object_id != original.content["r"]["0"].object_id


def test_data_are_not_copied():
    record = ArrayRecord([np.zeros(1000)])
    encoded = encode_message(Message(RecordDict({"r": record}), metadata=metadata()))
    assert encoded.buffers[0] is record["0"].data
    assert len(encoded.proto) < 200
    assert decode(encoded.proto, encoded.buffers).content["r"]["0"].data is record["0"].data


@pytest.mark.parametrize("buffers", [[], [b"", b""]])
def test_the_number_of_buffers_is_checked(buffers):
    encoded = encode_message(Message(RecordDict({"r": ArrayRecord([np.zeros(2)])}), metadata=metadata()))
    with pytest.raises(CodecError, match="more arrays" if not buffers else "fewer arrays"):
        decode(encoded.proto, buffers)


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_decoded_but_never_crash(data):
    try:
        proto, places = unpack(data)
        decode(proto, [b""] * len(places))
    except CodecError as error:
        assert str(error)  # noqa: PT017 - which of the two happens depends on the bytes


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x01", "too short"),
        (b"\xff\xff\xff\xff", "announces 4294967295 buffers"),
        (b"\x01\0\0\0" + b"\x09" + bytes(16), "unknown place"),
    ],
)
def test_a_broken_table_is_refused(data, text):
    with pytest.raises(CodecError, match=text):
        unpack(data)


@pytest.mark.parametrize(
    "frame",
    [
        Task(ticket=2**60, slot=1, directory=1, arena=7, offset=2**40, length=2**33),
        Stop(),
        Ready(),
        Unusable(reason="Traceback \N{SNOWMAN}"),
        Reply(ticket=3, directory=0, offset=5, length=6, has_state=True),
        Failure(ticket=4, code=8, reason="Grund: \N{LATIN SMALL LETTER U WITH DIAERESIS}"),
    ],
)
def test_frames_survive(frame):
    assert unpack_frame(pack_frame(frame)) == frame


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x01\x00", b"\x09", b"\x04" + bytes(10) + b"\xff"])
def test_other_bytes_are_refused(data):
    with pytest.raises(FrameError):
        unpack_frame(data)


def test_a_reason_is_cut_at_its_beginning():
    reason = limit_reason("x" * MAX_REASON + "end")
    assert reason.startswith("[3 characters cut]\nx")
    assert reason.endswith("xend")
    assert limit_reason("short") == "short"


def test_a_failure_fits_into_the_pipe_with_any_reason():
    assert len(pack_frame(Failure(ticket=1, code=2, reason="\N{GRINNING FACE}" * 100_000))) < 64_000
