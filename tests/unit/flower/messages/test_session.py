from dataclasses import FrozenInstanceError

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedtrain.crypto import Identity, SealingKey, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.flower.messages.session import (
    AnnouncedKeys,
    ConfirmedEnd,
    EndedSession,
    OfferedSession,
    ends_a_session,
    is_of_a_session,
)
from fedtrain.messaging import PROTOCOL
from fedtrain.trust import Roster
from tests.fakes import InProcessGrid

IDENTITY = Identity.generate()
ROSTER = Roster(server=IDENTITY.public, clients={0: Identity.generate().public})
SIGNED, MEMBERSHIP = (SignedEnvelope.sign("application/x", text, IDENTITY) for text in (b"{}", b"[]"))
SEALING = SealingKey(bytes(32)).public
SHOWN = canonical(ROSTER.as_json())


@pytest.mark.parametrize(
    ("message", "records"),
    [
        (OfferedSession(offer=SIGNED, roster=ROSTER), {"offer": SIGNED.line(), "roster": SHOWN}),
        (
            OfferedSession(offer=SIGNED, roster=ROSTER, membership=MEMBERSHIP),
            {"offer": SIGNED.line(), "roster": SHOWN, "membership": MEMBERSHIP.line()},
        ),
        (EndedSession(end=SIGNED, roster=ROSTER), {"end": SIGNED.line(), "roster": SHOWN}),
        (
            AnnouncedKeys(keys=SIGNED, sealing=SEALING),
            {"keys": SIGNED.line(), "sealing": SEALING.key, "protocol": PROTOCOL},
        ),
        (
            AnnouncedKeys(keys=SIGNED, sealing=SEALING, software="0.1.0"),
            {"keys": SIGNED.line(), "sealing": SEALING.key, "protocol": PROTOCOL, "fedtrain": "0.1.0"},
        ),
        (
            AnnouncedKeys(keys=SIGNED, sealing=SEALING, directions=0),
            {"keys": SIGNED.line(), "sealing": SEALING.key, "protocol": PROTOCOL, "directions": 0},
        ),
    ],
)
def test_a_message_has_the_names_that_it_always_had_and_is_read_as_it_was_written(message, records):
    content = message.to_records()
    assert [(name, list(record.items())) for name, record in content.items()] == [
        ("fedtrain.session", list(records.items()))
    ]
    assert type(message).from_records(content) == message
    with pytest.raises(FrozenInstanceError):
        message.roster = None


def test_the_confirmation_of_an_end_says_nothing_more():
    assert ConfirmedEnd().to_records() == RecordDict({"fedtrain.session": ConfigRecord()})


def test_an_offer_and_an_end_are_told_apart():
    assert ends_a_session(EndedSession(end=SIGNED, roster=ROSTER).to_records())
    assert not ends_a_session(OfferedSession(offer=SIGNED, roster=ROSTER).to_records())


@pytest.mark.parametrize("kind", [OfferedSession, EndedSession])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"roster": "text"}, "is malformed: it has a signed (offer|end) and a roster"),
        ({"offer": 1, "end": 1}, "is malformed: it has a signed (offer|end) and a roster"),
        ({"roster": b"[1]"}, "the roster in the (offer|end) of a session cannot be used"),
        ({"roster": b"[" * 5000}, "the roster in the (offer|end) of a session cannot be used"),
        ({"roster": b"\xff"}, "the roster in the (offer|end) of a session cannot be used"),
        ({"offer": b"{}\n", "end": b"{}\n"}, "not an envelope"),
    ],
)
def test_a_malformed_offer_or_end_is_refused(kind, change, error):
    whole = {"offer": SIGNED.line(), "end": SIGNED.line(), "roster": SHOWN}
    with pytest.raises((TransportError, ForgeryError), match=error):
        kind.from_records(RecordDict({"fedtrain.session": ConfigRecord(whole | change)}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"keys": "text"}, "malformed: it has signed keys and a sealing key"),
        ({"sealing": 1}, "malformed: it has signed keys and a sealing key"),
        ({"protocol": PROTOCOL + 1}, f"it speaks protocol {PROTOCOL + 1}, and this server protocol {PROTOCOL}"),
        ({"sealing": SEALING.key[:-1]}, "its sealing key cannot be used: a sealing key has 1216 bytes"),
        ({"keys": b"{}\n"}, "not an envelope"),
    ],
)
def test_a_malformed_announcement_is_refused(change, error):
    whole = dict(AnnouncedKeys(keys=SIGNED, sealing=SEALING).to_records()["fedtrain.session"])
    with pytest.raises((TransportError, ForgeryError), match=error):
        AnnouncedKeys.from_records(RecordDict({"fedtrain.session": ConfigRecord(whole | change)}))
    with pytest.raises(TransportError, match="malformed"):
        AnnouncedKeys.from_records(RecordDict({"fedtrain.session": MetricRecord()}))


@pytest.mark.parametrize(
    ("said", "shown"), [("0.1\x1b[2J", "0.1\N{REPLACEMENT CHARACTER}[2J"), ("9" * 500, "9" * 40), (3, ""), (b"1", "")]
)
def test_a_version_that_a_client_says_is_short_text(said, shown):
    whole = dict(AnnouncedKeys(keys=SIGNED, sealing=SEALING).to_records()["fedtrain.session"])
    content = RecordDict({"fedtrain.session": ConfigRecord(whole | {"fedtrain": said})})
    assert AnnouncedKeys.from_records(content).software == shown


@pytest.mark.parametrize("said", ["2", b"2", 2.0, -1, 2**31, 2**62, True, [2]])
def test_directions_that_a_client_says_are_a_version_or_nothing(said):
    whole = dict(AnnouncedKeys(keys=SIGNED, sealing=SEALING).to_records()["fedtrain.session"])
    content = RecordDict({"fedtrain.session": ConfigRecord(whole | {"directions": said})})
    assert AnnouncedKeys.from_records(content).directions is None


def test_what_calls_itself_a_message_about_a_session_carries_nothing_else():
    InProcessGrid(None, [])  # sets who this process is
    offer = OfferedSession(offer=SIGNED, roster=ROSTER).to_records()
    assert is_of_a_session(Message(offer, 1, "query"))
    assert not is_of_a_session(Message(RecordDict({"config": ConfigRecord()}), 1, "query"))
    for content, kind in (
        (offer, "train"),
        (RecordDict({**offer, "config": ConfigRecord()}), "query"),
        (RecordDict({"fedtrain.session": MetricRecord()}), "query"),
    ):
        with pytest.raises(TransportError, match="a message about a session is malformed"):
            is_of_a_session(Message(content, 1, kind))
