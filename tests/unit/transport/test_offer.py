import json

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError
from fedtrain.transport import SessionOffer
from fedtrain.transport.offer import PAYLOAD_TYPE

IDENTITY = Identity.generate()
OFFER = SessionOffer(run="run", session="session", roster="roster")


def test_an_offer_is_read_back():
    assert SessionOffer.verify(OFFER.sign(IDENTITY), IDENTITY.public) == OFFER


def test_another_identity_or_type_is_refused():
    with pytest.raises(ForgeryError, match="is expected"):
        SessionOffer.verify(OFFER.sign(IDENTITY), Identity.generate().public)
    envelope = SignedEnvelope.sign("application/other", OFFER.sign(IDENTITY).payload, IDENTITY)
    with pytest.raises(ForgeryError, match="application/other"):
        SessionOffer.verify(envelope, IDENTITY.public)


def damaged():
    data = OFFER.sign(IDENTITY).payload
    good = json.loads(data)
    yield from (b"", b"\xff", b"{", b"[" * 100_000, b"null", b"[]", b"{}")
    yield from (canonical({name: text for name, text in good.items() if name != left_out}) for left_out in good)
    yield from (canonical(good | {name: 5}) for name in good)
    yield canonical(good | {"more": "text"})
    yield json.dumps(good).encode()
    yield canonical(good | {"run": "found"}).replace(b"found", b"\\ud800")  # by fuzzing: JSON that is not Unicode
    yield data.replace(b'"run"', b'"run":"other","run"')


@pytest.mark.parametrize("payload", list(damaged()), ids=range(len(list(damaged()))))
def test_a_signed_payload_that_is_no_offer_is_refused(payload):
    with pytest.raises(ForgeryError, match="offer of a session"):
        SessionOffer.verify(SignedEnvelope.sign(PAYLOAD_TYPE, payload, IDENTITY), IDENTITY.public)
