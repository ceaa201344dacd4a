"""Signed bytes with their type, after DSSE (Dead Simple Signing Envelope, secure-systems-lab, v1.0).

The signature covers the type and the payload's very bytes: nothing is parsed before it is verified, and what is signed
as one type never passes as another. An envelope has one signature. As a line of a file it is canonical JSON, so that it
has one form and one digest.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Self, TypeVar

from fedtrain.crypto.identity import Identity, PublicIdentity
from fedtrain.errors import ForgeryError

_TYPE = re.compile(r"[a-z0-9.+/-]{1,200}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_SIGNATURE_BYTES = 64

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class SignedEnvelope:
    """A payload, its type, and a signature over both.

    Attributes:
        payload_type: the media type of the payload.
        payload: any bytes.
        key_id: id of the key that is said to have signed.
        signature: 64 bytes.
    """

    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes

    @classmethod
    def sign(cls, payload_type: str, payload: bytes, identity: Identity) -> Self:
        """Sign a payload.

        Raises:
            ValueError: the type is not a media type in lower case.
        """
        if not _TYPE.fullmatch(payload_type):
            raise ValueError(f"{payload_type!r} is not a media type in lower case")
        signature = identity.sign(pre_authentication(payload_type, payload))
        return cls(payload_type=payload_type, payload=payload, key_id=identity.public.key_id, signature=signature)

    def verify(self, public: PublicIdentity, payload_type: str) -> bytes:
        """Return the payload, if this key signed it as this type.

        Raises:
            ForgeryError: another type, another key, or a signature that does not hold.
        """
        if self.payload_type != payload_type:
            raise ForgeryError(f"the envelope is of type {self.payload_type!r}, and {payload_type!r} is expected")
        if self.key_id != public.key_id:
            raise ForgeryError(f"it is signed with key {self.key_id[:16]}, and key {public.key_id[:16]} is expected")
        if not public.signed(pre_authentication(self.payload_type, self.payload), self.signature):
            raise ForgeryError(f"the signature of key {self.key_id[:16]} does not hold: the content was changed")
        return self.payload

    def read(
        self,
        public: PublicIdentity,
        payload_type: str,
        *,
        what: str,
        parse: Callable[[object], _T],
        form: Callable[[_T], bytes],
    ) -> _T:
        """Return what a canonical JSON payload says, if this key signed it as this type.

        Args:
            public: whose key.
            payload_type: the media type.
            what: what it is, for errors.
            parse: makes it of a JSON value; raises ``ValueError`` or ``OverflowError`` for any other.
            form: returns the canonical JSON of it, which is its only form.

        Raises:
            ForgeryError: as `verify`, or the payload is not of that kind, or is in another form.
        """
        data = self.verify(public, payload_type)
        try:
            found = parse(json.loads(data))
            only = form(found)
        except (ValueError, OverflowError, RecursionError) as error:
            raise ForgeryError(f"the text of {what} cannot be read: {error}") from error
        if only != data:
            raise ForgeryError(f"the text of {what} is not in canonical form (RFC 8785)")
        return found

    def verify_own(self, identity: Identity, payload_type: str) -> bytes:
        """Do the same as ``verify`` with one's own key, three times as fast: sign again, and compare.

        Raises:
            ForgeryError: as `verify`; also where a signature holds that this key did not make in this way.
        """
        if self.payload_type != payload_type or self.key_id != identity.public.key_id:
            return self.verify(identity.public, payload_type)
        if identity.sign(pre_authentication(self.payload_type, self.payload)) != self.signature:
            raise ForgeryError(f"the signature of key {self.key_id[:16]} does not hold: the content was changed")
        return self.payload

    def as_json(self) -> dict[str, object]:
        """Return the envelope as DSSE has it: payload and signature in base64, the key id in hexadecimal."""
        return {
            "payload": base64.b64encode(self.payload).decode(),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(self.signature).decode()}],
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the envelope that ``as_json`` wrote. Its signature is not verified here.

        Raises:
            ForgeryError: it is anything else.
        """
        match value:
            case {
                "payload": str(payload),
                "payloadType": str(payload_type),
                "signatures": [{"keyid": str(key_id), "sig": str(signature), **more}],
                **rest,
            } if not rest and not more:
                pass
            case _:
                raise ForgeryError(
                    "not an envelope: it must be an object of payload, payloadType and signatures, with one signature "
                    "of keyid and sig, all text"
                )
        if not _TYPE.fullmatch(payload_type):
            raise ForgeryError("not an envelope: payloadType is not a media type in lower case")
        if not _KEY_ID.fullmatch(key_id):
            raise ForgeryError("not an envelope: keyid is not 64 hexadecimal digits in lower case")
        decoded = _decode("sig", signature)
        if len(decoded) != _SIGNATURE_BYTES:
            raise ForgeryError(f"not an envelope: sig has {len(decoded)} bytes, and {_SIGNATURE_BYTES} are expected")
        return cls(payload_type=payload_type, payload=_decode("payload", payload), key_id=key_id, signature=decoded)

    def line(self) -> bytes:
        """Return the canonical JSON of ``as_json``, and a newline."""
        # Written out, since no part of it needs escaping: a general encoder takes ten times as long.
        return b'{"payload":"%b","payloadType":"%b","signatures":[{"keyid":"%b","sig":"%b"}]}\n' % (
            base64.b64encode(self.payload),
            self.payload_type.encode(),
            self.key_id.encode(),
            base64.b64encode(self.signature),
        )

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Return the envelope of a line, newline included. Its signature is not verified here.

        Raises:
            ForgeryError: it is not a line that ``line`` wrote.
        """
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ForgeryError(f"not an envelope: the line is not JSON: {error}") from error
        envelope = cls.from_json(value)
        if envelope.line() != line:
            raise ForgeryError("not an envelope: the line is not in canonical form (RFC 8785), or does not end")
        return envelope

    @classmethod
    def from_lines(cls, data: bytes) -> tuple[Self, ...]:
        """Return the envelopes of the complete lines of a file. What follows the last newline is not read.

        Raises:
            ForgeryError: as `from_line`.
        """
        return tuple(cls.from_line(line + b"\n") for line in data.split(b"\n")[:-1])

    @cached_property
    def digest(self) -> str:
        """The hex SHA-256 of the line."""
        return sha256(self.line()).hexdigest()


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: the PAE of DSSE, which no other type and payload share."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _decode(name: str, text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ForgeryError(f"not an envelope: {name} is not base64: {error}") from error
    if base64.b64encode(data).decode() != text:  # bits after the end that have no meaning
        raise ForgeryError(f"not an envelope: {name} is not base64 in its only form")
    return data
