import json
from dataclasses import fields, replace
from hashlib import sha256

import pytest

from fedtrain.crypto import Identity, SealingKey, canonical, decrypt_once, encrypt_once
from fedtrain.crypto.asymmetric import OVERHEAD_BYTES
from fedtrain.crypto.envelope import pre_authentication
from fedtrain.errors import TransportError
from fedtrain.messaging import Body, Header, open_sealed, seal, sealed
from tests.messages import HEADER

TEXTS = ("run", "session", "config", "phase", "sender", "recipient")


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        replace(HEADER, direction="to server", round=0, sequence=2**53 - 1),
        replace(HEADER, **dict.fromkeys(TEXTS, "🔑" * 200)),
        replace(HEADER, run='"\\' * 100),
    ],
)
def test_a_header_is_read_back(header):
    assert Header.decode(header.encode()) == header


def test_every_field_is_part_of_the_bytes():
    others = {"round": 4, "sequence": 13, "direction": "to server"}
    encoded = {replace(HEADER, **{field.name: others.get(field.name, "other")}).encode() for field in fields(Header)}
    assert len(encoded | {HEADER.encode()}) == len(fields(Header)) + 1


def test_it_is_canonical_json():
    assert canonical(json.loads(HEADER.encode())) == HEADER.encode()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["", "x" * 201, "two\nlines", "\x1b[31m", "\ud800", b"bytes", 5, None, ["x"]])
def test_a_text_that_is_no_name_is_refused(name, text):
    with pytest.raises(TransportError, match=f"{name} in a header is no printable text"):
        replace(HEADER, **{name: text})


@pytest.mark.parametrize("name", ["round", "sequence"])
@pytest.mark.parametrize("number", [-1, 2**53, 1.0, True, "1", None])
def test_a_number_that_counts_nothing_is_refused(name, number):
    with pytest.raises(TransportError, match=f"{name} in a header is no whole number"):
        replace(HEADER, **{name: number})


@pytest.mark.parametrize("direction", ["", "to nobody", None, 1, ["to client"]])
def test_another_direction_is_refused(direction):
    with pytest.raises(TransportError, match="direction in a header is none of to client, to server"):
        replace(HEADER, direction=direction)


def damaged():
    data = HEADER.encode()
    good = json.loads(data)
    yield from (b"", b"\xff", b"{", b"null", b"[]", b"{}", b"[" * 8000, data[:-1], data + b"\n", b" " + data)
    yield from (canonical({name: value for name, value in good.items() if name != left_out}) for left_out in good)
    yield canonical(good | {"more": 1})
    yield from (canonical(good | {"schema": schema}) for schema in ("fedtrain.sealed/2", "x" * 1000, None, 1))
    yield json.dumps(good).encode()
    yield json.dumps(good, separators=(",", ":"))[::1].replace("train", "tr\\u0061in").encode()
    yield data.replace(b'"round":3', b'"round":3,"round":3')
    yield data.replace(b'"round":3', b'"round":3.0')
    yield data.replace(b'"round":3', b'"round":' + b"3" * 5000)
    yield data.replace(b'"round":3', b'"round":NaN')
    yield data.replace(b'"train"', b'"\\ud800"')
    yield canonical(good | {"run": "x" * 201})
    yield canonical(good | {"run": "x" * 9000})


@pytest.mark.parametrize("data", list(damaged()), ids=range(len(list(damaged()))))
def test_what_is_no_header_is_refused(data):
    with pytest.raises(TransportError, match="header"):
        Header.decode(data)


IDENTITY = Identity.generate()
KEY = SealingKey(bytes(range(32)))
OTHER = SealingKey(bytes(32))
CONTENT = b"a model " * 100
BODY = Body.encrypt(CONTENT)
SEALED = seal(HEADER, body=BODY, own=b"own", identity=IDENTITY, recipient=KEY.public)


def opened(data=SEALED, ciphertext=BODY.ciphertext, *, header=HEADER, key=KEY, sender=IDENTITY.public):
    return open_sealed(data, ciphertext, header=header, key=key, sender=sender)


def refused(why, *args, **kwargs):
    with pytest.raises(TransportError, match=rf"^the message of .+ in round \d \(.+\) is refused: .*{why}"):
        opened(*args, **kwargs)


def forged(inner, *, header=HEADER, signed=None, identity=IDENTITY):
    """Seal an inner part as the holder of an identity could who does not keep to the rules."""
    bound = header.encode()
    payload = sha256(inner if signed is None else signed).digest() + bound
    return KEY.public.seal(identity.sign(pre_authentication(sealed.PAYLOAD_TYPE, payload)) + inner, bound)


@pytest.mark.parametrize("own", [b"", b"own", bytes(100_000)])
@pytest.mark.parametrize("content", [b"", CONTENT])
def test_what_is_sealed_is_opened(content, own):
    body = Body.encrypt(content)
    data = seal(HEADER, body=body, own=own, identity=IDENTITY, recipient=KEY.public)
    assert opened(data, body.ciphertext) == (own, content)
    assert opened(data, memoryview(body.ciphertext)) == (own, content)


def test_recipients_share_a_body_and_each_opens_its_own_part_only():
    headers = [HEADER, replace(HEADER, recipient="client-2", sequence=13)]
    keys, owns = [KEY, OTHER], [b"for one", b"for the other"]
    parts = [
        seal(header, body=BODY, own=own, identity=IDENTITY, recipient=key.public)
        for header, key, own in zip(headers, keys, owns, strict=True)
    ]
    assert [len(part) - len(own) for part, own in zip(parts, owns, strict=True)] == [OVERHEAD_BYTES + 128] * 2
    for this in (0, 1):
        assert opened(parts[this], header=headers[this], key=keys[this]) == (owns[this], CONTENT)
        for header in headers:
            refused("to another key", parts[1 - this], header=header, key=keys[this])


def test_a_message_is_bound_to_all_that_its_header_says():
    others = {"round": 4, "sequence": 13, "direction": "to server"}
    for field in fields(Header):
        header = replace(HEADER, **{field.name: others.get(field.name, "other")})
        refused("sealed for another occasion", header=header)
        # Not only by the seal: what a recipient seals again for another occasion does not have the sender's signature.
        inner = KEY.open(SEALED, HEADER.encode())
        refused("not that of its pinned key", KEY.public.seal(inner, header.encode()), header=header)


def test_an_error_names_sender_round_and_phase():
    with pytest.raises(TransportError, match=r"^the message of server in round 3 \(train\) is refused: it was changed"):
        opened(key=OTHER)


def test_every_changed_byte_is_refused():
    for place in range(len(SEALED)):
        refused("changed", SEALED[:place] + bytes([SEALED[place] ^ 1]) + SEALED[place + 1 :])
    for place in range(len(BODY.ciphertext)):
        changed = BODY.ciphertext[:place] + bytes([BODY.ciphertext[place] ^ 1]) + BODY.ciphertext[place + 1 :]
        refused("not the one that was signed", ciphertext=changed)


def test_every_other_length_is_refused():
    for data in (b"", SEALED[:-1], SEALED[:OVERHEAD_BYTES], SEALED + b"\0"):
        refused("changed", data)
    for ciphertext in (b"", BODY.ciphertext[:-1], BODY.ciphertext + b"\0"):
        refused("not the one that was signed", ciphertext=ciphertext)


def test_another_sender_is_refused():
    other = Identity.generate()
    refused(f"not that of its pinned key {other.public.key_id[:16]}", sender=other.public)
    inner = BODY.key + BODY.digest + b"own"
    assert opened(forged(inner)) == (b"own", CONTENT)
    refused("not that of its pinned key", forged(inner, identity=other))


def test_a_changed_inner_part_is_not_what_was_signed():
    inner = BODY.key + BODY.digest + b"own"
    for place in range(len(inner)):
        changed = inner[:place] + bytes([inner[place] ^ 1]) + inner[place + 1 :]
        refused("not that of its pinned key", forged(changed, signed=inner))
    for changed in (inner[:-1], inner + b"\0"):
        refused("not that of its pinned key", forged(changed, signed=inner))


def test_a_recipient_cannot_make_another_body_for_others():
    context = b"fedtrain body v1"
    assert decrypt_once(BODY.key, BODY.ciphertext, context) == CONTENT
    refused("not the one that was signed", ciphertext=encrypt_once(BODY.key, b"another model", context))


def test_a_body_whose_digest_is_signed_is_still_to_decrypt():
    ciphertext = bytes(len(BODY.ciphertext))
    refused("another key", forged(BODY.key + sha256(ciphertext).digest() + b"own"), ciphertext)


def test_a_signature_of_another_type_does_not_count():
    inner, bound = BODY.key + BODY.digest, HEADER.encode()
    payload = sha256(inner).digest() + bound
    for message in (payload, pre_authentication("application/other", payload)):
        refused("not that of its pinned key", KEY.public.seal(IDENTITY.sign(message) + inner, bound))


@pytest.mark.parametrize("length", [0, 63, 64, 127])
def test_an_inner_part_that_is_too_short_is_refused(length):
    refused("shorter than any message", KEY.public.seal(bytes(length), HEADER.encode()))


def test_sizes_are_bounded(monkeypatch):
    monkeypatch.setattr(sealed, "LARGEST", len(CONTENT))
    monkeypatch.setattr(sealed, "_LARGEST_OWN", 3)
    assert opened() == (b"own", CONTENT)
    with pytest.raises(TransportError, match="own part has 4 bytes, and 3 are allowed"):
        seal(HEADER, body=BODY, own=b"owns", identity=IDENTITY, recipient=KEY.public)
    with pytest.raises(TransportError, match=f"body of a message has {len(CONTENT) + 1} bytes"):
        Body.encrypt(CONTENT + b"!")
    refused("larger than any message", SEALED + b"\0")
    refused("larger than any message", ciphertext=BODY.ciphertext + b"\0")


def test_each_body_has_its_own_key():
    bodies = [Body.encrypt(CONTENT) for _ in range(10)]
    assert len({body.key for body in bodies}) == len({body.digest for body in bodies}) == 10
    fixed = [Body.encrypt(CONTENT, random=bytes) for _ in range(2)]
    assert fixed[0] == fixed[1]
    assert fixed[0].key == bytes(32)


def test_neither_key_nor_content_is_printed():
    body = Body.encrypt(CONTENT, random=bytes)  # a random digest could spell what is looked for
    shown = repr(body)
    assert repr(body.digest) in shown
    assert repr(body.key) not in shown
    assert "key" not in shown
    assert "ciphertext" not in shown


class InAFile:
    """A body that is read in parts, and is another one whenever it is read again."""

    def __init__(self, ciphertext, size):
        self.ciphertext, self.size, self.read = ciphertext, size, 0

    def __len__(self):
        return len(self.ciphertext)

    def parts(self):
        self.read += 1
        ciphertext = self.ciphertext if self.read == 1 else bytes(len(self))
        for start in range(0, len(self), self.size):
            yield ciphertext[start : start + self.size]


@pytest.mark.parametrize("size", [1, 799, 800, 801, 816, 10_000])
def test_a_body_that_lies_elsewhere_is_read_once(size):
    body = InAFile(BODY.ciphertext, size)
    assert opened(ciphertext=body) == (b"own", CONTENT)
    assert body.read == 1
    for other in (BODY.ciphertext[:-1], BODY.ciphertext + b"\0", bytes(len(BODY.ciphertext)), b""):
        refused("its body is not the one that was signed", ciphertext=InAFile(other, size))


@pytest.mark.parametrize("size", [0, 1, sealed._PART - 17, sealed._PART - 16, sealed._PART, sealed._PART + 1])
def test_a_body_of_parts_is_that_of_the_whole(size):
    content = bytes(range(256)) * (size // 256 + 1)
    parts = [content[:100], memoryview(content)[100 : size // 2], memoryview(content)[max(100, size // 2) :]]
    key = lambda length: bytes(range(length))
    body = Body.encrypt(parts, random=key)
    assert body == Body.encrypt(content, random=key)
    data = seal(HEADER, body=body, own=b"own", identity=IDENTITY, recipient=KEY.public)
    assert opened(data, body.ciphertext) == (b"own", content)
