import json
from dataclasses import replace

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.messaging import PROTOCOL, SessionEnd, SessionOffer
from fedtrain.messaging.offer import PAYLOAD_TYPE

IDENTITY = Identity.generate()
OFFER = SessionOffer(run="run", session="session", roster="roster", start=1)


def test_an_offer_is_read_back():
    assert SessionOffer.verify(OFFER.sign(IDENTITY), IDENTITY.public) == OFFER


def test_another_identity_or_type_is_refused():
    with pytest.raises(ForgeryError, match="is expected"):
        SessionOffer.verify(OFFER.sign(IDENTITY), Identity.generate().public)
    envelope = SignedEnvelope.sign("application/other", OFFER.sign(IDENTITY).payload, IDENTITY)
    with pytest.raises(ForgeryError, match="application/other"):
        SessionOffer.verify(envelope, IDENTITY.public)


@pytest.mark.parametrize("start", [2, 2**53 - 1])
def test_a_start_is_signed(start):
    offer = replace(OFFER, start=start)
    assert SessionOffer.verify(offer.sign(IDENTITY), IDENTITY.public) == offer
    assert offer.sign(IDENTITY).payload != OFFER.sign(IDENTITY).payload


def test_an_offer_is_no_end_and_an_end_no_offer():
    end = SessionEnd(run="run", session="session", roster="roster", start=1)
    assert SessionEnd.verify(end.sign(IDENTITY), IDENTITY.public) == end
    with pytest.raises(ForgeryError, match="session-end"):
        SessionOffer.verify(end.sign(IDENTITY), IDENTITY.public)
    with pytest.raises(ForgeryError, match="session-offer"):
        SessionEnd.verify(OFFER.sign(IDENTITY), IDENTITY.public)


def damaged():
    data = OFFER.sign(IDENTITY).payload
    good = json.loads(data)
    yield from (b"", b"\xff", b"{", b"[" * 100_000, b"null", b"[]", b"{}")
    yield from (canonical({name: text for name, text in good.items() if name != left_out}) for left_out in good)
    yield from (canonical(good | {name: 5}) for name in good if name not in {"start", "protocol"})
    yield from (canonical(good | {"start": start}) for start in (0, -1, True, "1", None, 1.5, [1]))
    yield from (canonical(good | {"protocol": protocol}) for protocol in (True, "1", None, 1.5))
    yield data.replace(b'"start":1', b'"start":1.0')
    yield data.replace(b'"start":1', b'"start":9007199254740993')
    yield canonical(good | {"more": "text"})
    yield json.dumps(good).encode()
    yield canonical(good | {"run": "found"}).replace(b"found", b"\\ud800")  # by fuzzing: JSON that is not Unicode
    yield data.replace(b'"run"', b'"run":"other","run"')


@pytest.mark.parametrize("payload", list(damaged()), ids=range(len(list(damaged()))))
def test_a_signed_payload_that_is_no_offer_is_refused(payload):
    with pytest.raises(ForgeryError, match="offer of a session"):
        SessionOffer.verify(SignedEnvelope.sign(PAYLOAD_TYPE, payload, IDENTITY), IDENTITY.public)


@pytest.mark.parametrize("protocol", [0, PROTOCOL + 1, 2**40])
@pytest.mark.parametrize("more", [{}, {"more": "text"}, {"start": None}])
def test_another_protocol_is_refused_by_name_whatever_else_an_offer_holds(protocol, more):
    good = json.loads(OFFER.sign(IDENTITY).payload)
    payload = canonical(good | {"protocol": protocol} | more)
    with pytest.raises(TransportError, match=rf"the server speaks protocol {protocol} and this client protocol"):
        SessionOffer.verify(SignedEnvelope.sign(PAYLOAD_TYPE, payload, IDENTITY), IDENTITY.public)
