import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError
from fedtrain.provision.certificates import issue, make_ca
from fedtrain.trust import Authority, Directions, Former
from fedtrain.trust.directions import PAYLOAD_TYPE

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OPERATOR, SERVER = Identity.generate(), Identity.generate()
CA, NEXT = (make_ca("ab" * 16, now=NOW) for _ in range(2))
AUTHORITY = Authority(certificate=CA.certificate.decode())


def made(**changes):
    return Directions(
        **{
            "federation": "ab" * 16,
            "version": 2,
            "address": "fl.example.net:9443",
            "former": (Former(address="fl.example.org:9443", until=NOW + timedelta(days=30)),),
            "authorities": (
                Authority(certificate=NEXT.certificate.decode()),
                Authority(certificate=CA.certificate.decode(), retires=NOW + timedelta(days=90)),
            ),
            **changes,
        }
    )


def written(change):
    """Return the directions as the operator signed them, with what somebody made of their payload."""
    value = json.loads(made().sign(OPERATOR).payload)
    changed = change(value)
    return SignedEnvelope.sign(PAYLOAD_TYPE, canonical(value if changed is None else changed), OPERATOR)


def test_what_the_operator_signed_is_read():
    assert Directions.verify(made().sign(OPERATOR), OPERATOR.public) == made()
    assert Directions.verify(written(lambda value: value), OPERATOR.public) == made()
    plain = made(former=(), authorities=(AUTHORITY,))
    assert Directions.verify(plain.sign(OPERATOR), OPERATOR.public) == plain
    assert made().certificates == NEXT.certificate + CA.certificate


def test_nobody_else_signs():
    with pytest.raises(ForgeryError, match="signed with key"):
        Directions.verify(made().sign(SERVER), OPERATOR.public)


def test_what_was_signed_as_something_else_is_refused():
    other = SignedEnvelope.sign("application/json", made().sign(OPERATOR).payload, OPERATOR)
    with pytest.raises(ForgeryError, match="of type"):
        Directions.verify(other, OPERATOR.public)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(version=0),
        lambda value: value.update(version=True),
        lambda value: value.update(version=2.5),
        lambda value: value.update(more=1),
        lambda value: value.pop("former"),
        lambda value: value.update(address="fl.example.net"),
        lambda value: value.update(address="fl.example.net:0"),
        lambda value: value.update(address="https://fl.example.net:1"),
        lambda value: value.update(former=[{"address": "fl.example.net:9443", "until": "2026-02-01T00:00:00+00:00"}]),
        lambda value: value.update(former=[{"address": "a:1", "until": "2026-02-01T00:00:00"}]),
        lambda value: value.update(former=[{"address": "a:1", "until": "2026-02-01T00:00:00+01:00"}]),
        lambda value: value.update(former=[{"address": "a:1", "until": "2026-02-01T00:00:00.5+00:00"}]),
        lambda value: value.update(former=[{"address": "a:1", "until": "0001-01-01T00:00:00+23:00"}]),
        lambda value: value.update(former=[{"address": "a:1", "until": "soon"}]),
        lambda value: value.update(former=["a:1"]),
        lambda value: value.update(
            former=[{"address": f"a:{n}", "until": "2026-02-01T00:00:00+00:00"} for n in range(1, 10)]
        ),
        lambda value: value.update(authorities=[]),
        lambda value: value.update(authorities=5 * value["authorities"][:1]),
        lambda value: value["authorities"][0].update(certificate="none"),
        lambda value: value["authorities"][0].update(certificate=value["authorities"][0]["certificate"] + "\n"),
        lambda value: value["authorities"][0].update(more=1),
        lambda value: [],
        lambda value: "directions",
    ],
)
def test_malformed_directions_are_refused(change):
    with pytest.raises(ForgeryError):
        Directions.verify(written(change), OPERATOR.public)


def test_a_servers_certificate_is_no_authority():
    certificate = issue(CA, ["localhost"], now=NOW, days=1).certificate.decode()
    with pytest.raises(ValueError, match="not that of an authority"):
        made(authorities=(Authority(certificate=certificate),))


def test_a_time_of_another_zone_is_not_signed():
    with pytest.raises(ValueError, match="whole seconds of UTC"):
        made(former=(Former(address="a:1", until=NOW.astimezone(timezone(timedelta(hours=1)))),))


def test_another_form_of_the_same_is_refused():
    payload = made().sign(OPERATOR).payload
    other = SignedEnvelope.sign(PAYLOAD_TYPE, payload.replace(b'"version":2', b'"version": 2'), OPERATOR)
    with pytest.raises(ForgeryError, match="canonical"):
        Directions.verify(other, OPERATOR.public)
