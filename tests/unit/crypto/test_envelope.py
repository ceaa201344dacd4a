import base64
import json
from dataclasses import replace

import pytest

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.crypto.envelope import pre_authentication
from fedtrain.errors import ForgeryError

TYPE = "application/vnd.test.v1+json"
IDENTITY = Identity.generate()


@pytest.fixture(params=[b"", b"payload", bytes(range(256)) * 5])
def envelope(request):
    return SignedEnvelope.sign(TYPE, request.param, IDENTITY)


def readers(envelope):
    """Both ways to verify, which must agree."""
    return [
        lambda identity, kind: envelope.verify(identity.public, kind),
        envelope.verify_own,
    ]


def test_an_envelope_is_read_back(envelope):
    for again in (
        SignedEnvelope.from_json(json.loads(json.dumps(envelope.as_json()))),
        SignedEnvelope.from_line(envelope.line()),
    ):
        assert again == envelope
        assert again.digest == envelope.digest
    for read in readers(envelope):
        assert read(IDENTITY, TYPE) == envelope.payload


def test_a_line_is_canonical_json(envelope):
    assert envelope.line() == canonical(envelope.as_json()) + b"\n"


def test_the_complete_lines_of_a_file_are_read(envelope):
    other = SignedEnvelope.sign(TYPE, b"other", IDENTITY)
    for torn in (b"", other.line()[:-1]):
        assert SignedEnvelope.from_lines(envelope.line() + other.line() + torn) == (envelope, other)
    with pytest.raises(ForgeryError, match="not JSON"):
        SignedEnvelope.from_lines(envelope.line() + b"\n" + other.line())


def test_a_changed_envelope_is_refused():
    envelope = SignedEnvelope.sign(TYPE, b"payload", IDENTITY)
    for changed in (
        replace(envelope, payload=b"Payload"),
        replace(envelope, payload=b""),
        replace(envelope, signature=envelope.signature[::-1]),
        replace(envelope, signature=bytes(64)),
    ):
        for read in readers(changed):
            with pytest.raises(ForgeryError, match="does not hold"):
                read(IDENTITY, TYPE)


def test_another_type_or_key_is_refused_and_named():
    other = Identity.generate()
    envelope = SignedEnvelope.sign(TYPE, b"payload", IDENTITY)
    for read in readers(envelope):
        with pytest.raises(ForgeryError, match="application/other"):
            read(IDENTITY, "application/other")
        with pytest.raises(ForgeryError, match=f"key {other.public.key_id[:16]} is expected"):
            read(other, TYPE)
    # The type is signed: to write another into the envelope does not help.
    retyped = replace(envelope, payload_type="application/other")
    for read in readers(retyped):
        with pytest.raises(ForgeryError, match="does not hold"):
            read(IDENTITY, "application/other")
    # Nor does another key's id.
    claimed = replace(envelope, key_id=other.public.key_id)
    for read in readers(claimed):
        with pytest.raises(ForgeryError, match="does not hold"):
            read(other, TYPE)


def test_no_two_pairs_of_type_and_payload_share_what_is_signed():
    assert pre_authentication("a", b"1 b 1 c") != pre_authentication("a 7 1", b"b 1 c")
    assert pre_authentication("ab", b"") != pre_authentication("a", b"b")


def test_a_type_that_could_hide_something_is_not_signed():
    for kind in ("", "Upper/case", "with space", 'quote"', "ü", "x" * 201):
        with pytest.raises(ValueError, match="media type"):
            SignedEnvelope.sign(kind, b"", IDENTITY)


def damaged():
    good = SignedEnvelope.sign(TYPE, b"payload!", IDENTITY).as_json()
    signature = good["signatures"][0]

    def without(key):
        return {name: value for name, value in good.items() if name != key}

    yield from (None, [], "text", 5, {}, [good])
    yield from (without(key) for key in good)
    yield good | {"more": 1}
    yield good | {"signatures": []}
    yield good | {"signatures": [signature, signature]}
    yield good | {"signatures": signature}
    yield good | {"signatures": [signature | {"more": ""}]}
    yield good | {"signatures": [{"sig": signature["sig"]}]}
    yield good | {"signatures": [signature | {"keyid": signature["keyid"].upper()}]}
    yield good | {"signatures": [signature | {"keyid": ""}]}
    yield good | {"signatures": [signature | {"sig": ""}]}
    yield good | {"signatures": [signature | {"sig": base64.b64encode(bytes(63)).decode()}]}
    yield good | {"signatures": [signature | {"sig": 5}]}
    yield good | {"payloadType": "Type"}
    yield good | {"payloadType": 5}
    yield good | {"payload": None}
    yield from (
        good | {"payload": text} for text in ("!", "cGF5\n", "cGF5bG9hZCE", "cGF5bG9hZCF=", "ö", "cGF5bG9hZ_E=")
    )


@pytest.mark.parametrize("value", list(damaged()))
def test_what_is_no_envelope_is_refused(value):
    with pytest.raises(ForgeryError, match="not an envelope"):
        SignedEnvelope.from_json(value)


def test_a_line_has_one_form():
    envelope = SignedEnvelope.sign(TYPE, b"payload", IDENTITY)
    line = envelope.line()
    for other in (
        line[:-1],
        line + b"\n",
        b" " + line,
        line.replace(b":", b": ", 1),
        line.replace(b"payloadType", b"payload\\u0054ype"),
        b'{"payloadType":"x",' + line[1:],
        json.dumps(dict(reversed(envelope.as_json().items())), separators=(",", ":")).encode() + b"\n",
        b"",
        b"\n",
        b"[" * 100_000,
        b"\xff\n",
    ):
        with pytest.raises(ForgeryError, match="not an envelope"):
            SignedEnvelope.from_line(other)
