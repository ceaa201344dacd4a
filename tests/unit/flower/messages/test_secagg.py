from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedtrain.errors import TransportError
from fedtrain.flower.messages.secagg import (
    MaskQuery,
    MaskReply,
    SessionName,
    UnmaskQuery,
    UnmaskReply,
    asks_for_a_sum,
    without_session,
)
from fedtrain.secagg import MaskedVector, MaskRequest, Parameters, UnmaskedShares, UnmaskRequest

NAME = SessionName(run="a1", session="b2")
PARAMETERS = Parameters.plan(members=3, length=4, bits=12, bound=1.0, threshold=None, neighbours=None)
MASK = MaskRequest(round=1, parameters=PARAMETERS, work="0" * 64, announcements=(b"1", b"2", b"3"))
UNMASK = UnmaskRequest(round=1, binding="0" * 64, survivors=(0, 1), dropped=(2,), bundles=(b"1",))
SHARES = UnmaskedShares(own=bytes(32), pairs=bytes(16), unreadable=(1,))
MASKED = MaskedVector(words=np.arange(8, dtype=np.uint8), bundles=(b"1", b"2"), commitments=bytes(96))
WHERE = {"run": "a1", "session": "b2"}


@pytest.mark.parametrize(
    ("message", "records"),
    [
        (MaskQuery(session=NAME, request=MASK), {"secagg": MASK.to_fields(), "secagg.session": WHERE}),
        (UnmaskQuery(session=NAME, request=UNMASK), {"secagg": UNMASK.to_fields(), "secagg.session": WHERE}),
        (UnmaskReply(shares=SHARES), {"secagg": SHARES.to_fields()}),
    ],
)
def test_a_message_has_the_names_that_it_always_had_and_is_read_as_it_was_written(message, records):
    content = message.to_records()
    assert [(name, list(record.items())) for name, record in content.items()] == [
        (name, list(values.items())) for name, values in records.items()
    ]
    assert type(message).from_records(content) == message
    assert asks_for_a_sum(content)
    with pytest.raises(FrozenInstanceError):
        message.request = None


def test_a_masked_update_is_an_array_beside_its_fields():
    content = MaskReply(masked=MASKED).to_records()
    assert list(content) == ["masked", "secagg"]
    assert content["masked"]["fedtrain.bytes"].data == bytes(range(8))
    assert dict(content["secagg"]) == MASKED.to_fields()
    read = MaskReply.from_records(content).masked
    assert read.words.tolist() == list(range(8))
    assert (read.bundles, read.commitments) == (MASKED.bundles, MASKED.commitments)


def test_the_application_is_told_of_the_request_and_not_of_the_session():
    content = RecordDict({**MaskQuery(session=NAME, request=MASK).to_records(), "config": ConfigRecord()})
    assert list(without_session(content)) == ["secagg", "config"]
    assert not asks_for_a_sum(RecordDict({"config": ConfigRecord()}))


@pytest.mark.parametrize("where", [None, {"run": "a1"}, WHERE | {"more": 1}, WHERE | {"run": 1}])
@pytest.mark.parametrize("query", [MaskQuery(session=NAME, request=MASK), UnmaskQuery(session=NAME, request=UNMASK)])
def test_a_request_of_no_session_is_refused(query, where):
    content = query.to_records()
    content["secagg.session"] = ConfigRecord(where or {})
    with pytest.raises(TransportError, match="does not say of which run and session it is"):
        type(query).from_records(content)


@pytest.mark.parametrize("kind", [MaskQuery, UnmaskQuery, UnmaskReply])
def test_a_message_without_its_record_is_refused(kind):
    with pytest.raises(TransportError, match="the message has no record 'secagg'"):
        kind.from_records(RecordDict({"secagg.session": ConfigRecord(WHERE)}))


def test_a_reply_without_a_masked_update_or_with_more_is_refused():
    content = MaskReply(masked=MASKED).to_records()
    with pytest.raises(TransportError, match="has no masked update"):
        MaskReply.from_records(RecordDict({"secagg": content["secagg"]}))
    more = ArrayRecord({"w": Array(np.zeros(2))})
    with pytest.raises(TransportError, match="has no masked update"):
        MaskReply.from_records(RecordDict({**content, "arrays": more}))
    with pytest.raises(TransportError, match="was to hold bytes"):
        MaskReply.from_records(RecordDict({"masked": more, "secagg": content["secagg"]}))


@pytest.mark.parametrize(
    "words",
    [
        np.frombuffer(b"abcdef", np.uint8),
        np.frombuffer(b"abcdef", np.uint8)[1:],
        np.frombuffer(b"abcdef", np.uint8)[::-1],
        np.frombuffer(b"abcdef", np.uint8, offset=2),
        np.arange(6, dtype=np.uint8),
        np.zeros(0, np.uint8),
    ],
    ids=["whole", "cut", "backwards", "offset", "own", "none"],
)
def test_words_travel_as_they_are(words):
    content = MaskReply(masked=MaskedVector(words=words, bundles=(), commitments=b"")).to_records()
    np.testing.assert_array_equal(MaskReply.from_records(content).masked.words, words)


def test_words_that_are_bytes_are_not_copied():
    data = bytes(100)
    masked = MaskedVector(words=np.frombuffer(data, np.uint8), bundles=(), commitments=b"")
    (record,) = MaskReply(masked=masked).to_records().array_records.values()
    assert next(iter(record.values())).data is data
