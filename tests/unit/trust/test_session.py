import base64
import json
from dataclasses import replace

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError
from fedtrain.trust import SERVER, SessionKeys, SessionSecrets, client_name
from fedtrain.trust.session import PAYLOAD_TYPE
from tests.unit.crypto.test_asymmetric import SMALL_ORDER

IDENTITY = Identity.generate()
SECRETS = SessionSecrets(bytes(range(32)))
KEYS = SessionKeys.of(SECRETS, run="run", session="session", roster="roster", party=client_name(3))


def signed(payload):
    return SignedEnvelope.sign(PAYLOAD_TYPE, payload, IDENTITY)


def announced():
    return json.loads(KEYS.sign(IDENTITY).payload)


def test_the_keys_of_a_secret_are_the_same_again_and_differ_from_each_other():
    again = SessionSecrets(bytes(range(32)))
    assert again.sealing.public == SECRETS.sealing.public
    assert (again.masking.public, again.sharing.public) == (SECRETS.masking.public, SECRETS.sharing.public)
    other = SessionSecrets(bytes(32))
    publics = {
        *(secrets.masking.public for secrets in (SECRETS, other)),
        *(secrets.sharing.public for secrets in (SECRETS, other)),
        *(secrets.sealing.public.key[-32:] for secrets in (SECRETS, other)),
    }
    assert len(publics) == 6


def test_announced_keys_are_the_public_halves():
    assert SessionKeys.verify(KEYS.sign(IDENTITY), IDENTITY.public) == KEYS
    assert KEYS.sealing == SECRETS.sealing.public.digest
    assert (KEYS.masking, KEYS.sharing) == (SECRETS.masking.public, SECRETS.sharing.public)
    assert KEYS.party == "client-3" != SERVER


def test_another_identity_or_a_changed_announcement_is_refused():
    envelope = KEYS.sign(IDENTITY)
    with pytest.raises(ForgeryError, match="is expected"):
        SessionKeys.verify(envelope, Identity.generate().public)
    for name in ("run", "session", "roster", "party", "sealing"):
        payload = replace(KEYS, **{name: "other"}).sign(Identity.generate()).payload
        with pytest.raises(ForgeryError, match="does not hold"):
            SessionKeys.verify(replace(envelope, payload=payload), IDENTITY.public)


def test_what_was_signed_as_something_else_is_refused():
    envelope = SignedEnvelope.sign("application/other", KEYS.sign(IDENTITY).payload, IDENTITY)
    with pytest.raises(ForgeryError, match="application/other"):
        SessionKeys.verify(envelope, IDENTITY.public)


def other_announcements():
    good = announced()
    yield from (b"", b"\xff", b"{", b"[" * 100_000, b"null", b"[]", b"{}")
    yield from (canonical({name: text for name, text in good.items() if name != left_out}) for left_out in good)
    yield from (canonical(good | {name: 5}) for name in good)
    yield canonical(good | {"more": "text"})
    yield json.dumps(good).encode()
    yield canonical(good | {"run": "found"}).replace(b"found", b"\\ud800")  # by fuzzing: JSON that is not Unicode
    for name in ("masking", "sharing"):
        yield from (canonical(good | {name: text}) for text in ("!", good[name][:-1], good[name] + "\n"))
        yield from (canonical(good | {name: base64.b64encode(bytes(size)).decode()}) for size in (0, 31, 33))
    yield canonical(good).replace(b'"run"', b'"run":"other","run"')


@pytest.mark.parametrize("payload", list(other_announcements()), ids=range(len(list(other_announcements()))))
def test_a_signed_payload_that_is_no_announcement_is_refused(payload):
    with pytest.raises(ForgeryError, match="announced session keys"):
        SessionKeys.verify(signed(payload), IDENTITY.public)


@pytest.mark.parametrize("purpose", ["masking", "sharing"])
@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_of_low_order_is_refused(purpose, point):
    envelope = replace(KEYS, **{purpose: bytes.fromhex(point)}).sign(IDENTITY)
    with pytest.raises(
        ForgeryError, match=f"announced as 'client-3' have a {purpose} key that is refused: .*low order"
    ):
        SessionKeys.verify(envelope, IDENTITY.public)


def test_it_prints_no_secret():
    shown = f"{vars(SECRETS)}"
    assert "AgreementKey(public=" in shown
    assert "SealingKey(digest=" in shown
    assert bytes(range(32)).hex() not in shown + repr(SECRETS)
