"""What is made of bytes that come from others, each with bytes to start from.

A target returns nothing. It may raise the errors that are documented for what it calls, which it catches; all else is
a finding, also something that is accepted though it is not the one form of what it says.
"""

import json
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedtrain.crypto import Identity, SealingKey, SignedEnvelope
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.messaging import (
    Arrays,
    Body,
    Header,
    SessionOffer,
    Values,
    decode,
    encode,
    open_sealed,
    seal,
)
from fedtrain.messaging.offer import PAYLOAD_TYPE as OFFER
from fedtrain.secagg import MaskedVector, MaskRequest, Parameters, UnmaskedShares, UnmaskRequest
from fedtrain.trust import SessionKeys, SessionSecrets
from fedtrain.trust.session import PAYLOAD_TYPE as KEYS
from tests.messages import HEADER

IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32)))
KEY = SealingKey(bytes(32))
NAMES = {"run": "0123", "session": "4567", "roster": "89ab"}
BODY = Body.encrypt(b"content", random=bytes)
CONTENTS = [
    {},
    {"a": Arrays(items={"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])})},
    {
        "m": Values(kind="metrics", items={"x": 1, "y": 0.5, "z": [1, 2], "u": [0.1, -0.0]}),
        "c": Values(
            kind="config", items={"b": b"12", "s": "text", "t": True, "l": [b"3", b""], "e": [], "n": ["a", "b"]}
        ),
    },
]


def content(data: bytes) -> None:
    """Decode bytes as they are, and as a header, up to the first zero byte, with what follows it."""
    text, _, rest = data.partition(b"\0")
    text += b" " * (-len(text) % 8)
    for candidate in (data, len(text).to_bytes(8, "little") + text + rest):
        with suppress(TransportError):
            if encode(decode(candidate)) != candidate:
                raise AssertionError("accepted in another form than its own")


def header(data: bytes) -> None:
    """Decode a header, and open a message that claims to have it."""
    with suppress(TransportError):
        decoded = Header.decode(data)
        if decoded.encode() != data:
            raise AssertionError("accepted in another form than its own")
        open_sealed(data, BODY.ciphertext, header=decoded, key=KEY, sender=IDENTITY.public)


def opened(data: bytes) -> None:
    """Open a message whose inner part is sealed as it comes, as anyone could who knows the recipient's key."""
    with suppress(TransportError):
        own, _ = open_sealed(
            KEY.public.seal(data, HEADER.encode()), BODY.ciphertext, header=HEADER, key=KEY, sender=IDENTITY.public
        )
        if data[128:] != own:
            raise AssertionError("opened as something else")


def envelope(data: bytes) -> None:
    """Read the line of a signed envelope."""
    with suppress(ForgeryError):
        if SignedEnvelope.from_line(data).line() != data:
            raise AssertionError("accepted in another form than its own")


def announcement(data: bytes) -> None:
    """Read keys, and an offer, that a pinned identity signed."""
    with suppress(ForgeryError):
        keys = SessionKeys.verify(SignedEnvelope.sign(KEYS, data, IDENTITY), IDENTITY.public)
        if keys.sign(IDENTITY).payload != data:
            raise AssertionError("accepted in another form than its own")
    with suppress(ForgeryError):
        offer = SessionOffer.verify(SignedEnvelope.sign(OFFER, data, IDENTITY), IDENTITY.public)
        if offer.sign(IDENTITY).payload != data:
            raise AssertionError("accepted in another form than its own")


def aggregation(data: bytes) -> None:
    """Read JSON, in which texts that begin with x are bytes, as the fields of each message of secure aggregation."""
    try:
        fields = _with_bytes(json.loads(data))
    except (ValueError, RecursionError):
        return
    if not isinstance(fields, dict):
        return
    words = np.zeros(4, dtype=np.uint8)
    for read in (
        MaskRequest.from_fields,
        lambda fields: MaskedVector.from_fields(fields, words),
        UnmaskRequest.from_fields,
        UnmaskedShares.from_fields,
        Parameters.from_fields,
    ):
        with suppress(TransportError):
            if read(fields).to_fields() != fields:
                raise AssertionError("accepted in another form than its own")


def _with_bytes(value: object) -> object:
    match value:
        case str() if value.startswith("x"):
            return bytes.fromhex(value[1:])
        case list():
            return [_with_bytes(item) for item in value]
        case dict():
            return {name: _with_bytes(item) for name, item in value.items()}
        case _:
            return value


def _messages() -> list[bytes]:
    parameters = Parameters.plan(members=3, length=4, bits=8, bound=1.0)
    messages = [
        parameters,
        MaskRequest(round=1, parameters=parameters, work="0" * 64, announcements=(b"a", b"b", b"c")),
        MaskedVector(words=np.zeros(4, dtype=np.uint8), bundles=(b"1", b"2"), commitments=bytes(96)),
        UnmaskRequest(round=1, binding="0" * 64, survivors=(0, 2), dropped=(1,), bundles=(b"1",)),
        UnmaskedShares(own=bytes(64), pairs=bytes(16), unreadable=(2,)),
    ]
    return [json.dumps(m.to_fields(), default=lambda data: f"x{data.hex()}").encode() for m in messages]


def _framed(data: bytes) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end] + b"\0" + data[end:]


_ENCODED = [encode(item) for item in CONTENTS]
_SEALED = KEY.open(
    seal(HEADER, body=BODY, own=b"own", identity=IDENTITY, recipient=KEY.public),
    HEADER.encode(),
)
_ENVELOPES = [
    SessionKeys.of(SessionSecrets(bytes(32)), **NAMES, party="client-1").sign(IDENTITY),
    SessionOffer(**NAMES, start=1).sign(IDENTITY),
]

TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "content": (content, [*_ENCODED, *map(_framed, _ENCODED)]),
    "header": (header, [HEADER.encode()]),
    "opened": (opened, [_SEALED]),
    "envelope": (envelope, [item.line() for item in _ENVELOPES]),
    "announcement": (announcement, [item.payload for item in _ENVELOPES]),
    "aggregation": (aggregation, _messages()),
}

# What the fuzzer puts together.
WORDS = [
    *(b"%c" % letter for letter in b'[]{}",:\\'),
    b'\\"',
    b"null",
    b"true",
    b"NaN",
    b"\\ud800",
    b"9007199254740993",
    *(b'"%b"' % word for word in b"data_offsets dtype shape bytes F32 F64 BOOL U8 __metadata__".split()),
    b"fedtrain.content/1",
    *(b'\\"%b\\"' % word for word in b"arrays metrics config b1 i5 f3ff0000000000000 sx x2".split()),
]
