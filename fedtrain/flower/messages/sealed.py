"""The two parts of a sealed message, and how it lies in Flower's records.

Arrays are the body, which is encrypted once for all recipients; all else is a recipient's own part.
"""

from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Error, RecordDict

from fedtrain.errors import TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import body_of, bytes_record, from_content, to_content
from fedtrain.messaging import Ciphertext, Record, Values, decode, encode, encoded_parts

_SEALED, _HEADER, _OWN, _BODY = "sealed", "header", "sealed", "body"

# Names that no application gives its records.
_REPLY_KEY = "fedtrain.reply-key"
_ERROR = "fedtrain.error"

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A sealed message.

    Attributes:
        header: what it is bound to, readable by all.
        sealed: the recipient's own part and the key of the body, for the recipient alone.
        body: the arrays, encrypted.
    """

    header: bytes
    sealed: bytes
    body: Ciphertext

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        assert isinstance(self.body, bytes)  # it was made here
        return RecordDict(
            {_SEALED: ConfigRecord({_HEADER: self.header, _OWN: self.sealed}), _BODY: bytes_record(self.body)}
        )

    @classmethod
    def from_records(cls, content: RecordDict) -> "Packed":
        """Read it from the content of a message.

        Raises:
            TransportError: the content is anything else.
        """
        # Flower's views of a content by kind refer to themselves, and would keep the body until cycles are collected.
        record, body = content.get(_SEALED), content.get(_BODY)
        if not (isinstance(record, ConfigRecord) and isinstance(body, ArrayRecord) and set(record) == {_HEADER, _OWN}):
            raise TransportError("it is not a sealed message: it has a header, a sealed part and a body")
        if len(content) != len((record, body)):
            raise TransportError("it is not a sealed message: it has more than a header, a sealed part and a body")
        header, sealed = record[_HEADER], record[_OWN]
        if not (isinstance(header, bytes) and isinstance(sealed, bytes)):
            raise TransportError("the header and the sealed part of a sealed message are bytes")
        return cls(header=header, sealed=sealed, body=body_of(body))


def is_sealed(content: RecordDict) -> bool:
    """Say whether a content claims to be sealed."""
    return isinstance(content.get(_SEALED), ConfigRecord) and isinstance(content.get(_BODY), ArrayRecord)


def arrays_of(content: RecordDict) -> list[bytes | memoryview]:
    """Return the arrays of a content, encoded, in parts: the content of a body.

    Raises:
        TransportError: one of them cannot be.
    """
    return encoded_parts(to_content(content.array_records))


def own_of(content: RecordDict, *, reply_key: bytes | None = None) -> bytes:
    """Return all of a content that is no array, encoded, with the key to which the reply is to be sealed.

    Raises:
        TransportError: a part of it cannot be.
    """
    own = to_content({name: record for name, record in content.items() if not isinstance(record, ArrayRecord)})
    if reply_key is not None:
        own[_REPLY_KEY] = Values(kind="config", items={_REPLY_KEY: reply_key})
    return encode(own)


def failure(error: Error) -> bytes:
    """Return what takes the place of the own part where a client failed, encoded."""
    return encode({_ERROR: Values(kind="config", items={"code": error.code, "reason": error.reason or ""})})


def unpacked(own: bytes, body: memoryview) -> tuple[RecordDict | Error, bytes]:
    """Return a content, or the failure that takes its place, and the key to which a reply is to be sealed, if any.

    Raises:
        TransportError: the parts are not what this module makes.
    """
    records, arrays = decode(own), decode(body)
    key = _value(records.pop(_REPLY_KEY, None), _REPLY_KEY, bytes, b"")
    failed = records.pop(_ERROR, None)
    if failed is not None:
        return Error(_value(failed, "code", int, 0), _value(failed, "reason", str, "")), key
    if arrays.keys() & records.keys():
        raise TransportError("a sealed message names a record twice")
    return from_content({**arrays, **records}), key


def round_of(content: RecordDict) -> int:
    """Return the round that a message is about, 0 if it does not say."""
    numbers = (record.get(protocol.ROUND) for record in content.config_records.values())
    return next((number for number in numbers if isinstance(number, int)), 0)


def _value(record: Record | None, name: str, kind: type[_T], default: _T) -> _T:
    if record is None:
        return default
    value = record.items.get(name) if isinstance(record, Values) else None
    if not isinstance(value, kind):
        raise TransportError(f"a sealed message says {name} in a way that cannot be read")
    return value
