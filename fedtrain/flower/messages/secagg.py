"""The messages of secure aggregation: a request for a masked update, one for shares, and the answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedtrain.errors import TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import bytes_of, bytes_record
from fedtrain.secagg import MaskedVector, MaskRequest, UnmaskedShares, UnmaskRequest

_RECORD = protocol.SECAGG
_SESSION = "secagg.session"
_MASKED = "masked"
_Request = TypeVar("_Request", MaskRequest, UnmaskRequest)


@dataclass(frozen=True, kw_only=True)
class SessionName:
    """Which session a request is of.

    Attributes:
        run: id of the run.
        session: id of the session.
    """

    run: str
    session: str

    def to_record(self) -> ConfigRecord:
        """Return it as part of a message."""
        return ConfigRecord({"run": self.run, "session": self.session})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: run or session is missing.
        """
        match dict(content.config_records.get(_SESSION, ConfigRecord())):
            case {"run": str(run), "session": str(session), **rest} if not rest:
                return cls(run=run, session=session)
        raise TransportError("a request of secure aggregation does not say of which run and session it is")


@dataclass(frozen=True, kw_only=True)
class _Query(Generic[_Request]):
    """What a message holds that asks for something.

    Attributes:
        session: the session.
        request: the request.
    """

    session: SessionName
    request: _Request

    def to_records(self) -> RecordDict:
        """Return it as content, of a message or to add to that of one."""
        return RecordDict({_RECORD: _record(self.request.to_fields()), _SESSION: self.session.to_record()})


@dataclass(frozen=True, kw_only=True)
class MaskQuery(_Query[MaskRequest]):
    """What a message holds that asks for a masked update, besides the model and the settings."""

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: something is missing or malformed.
        """
        return cls(request=MaskRequest.from_fields(_fields(content)), session=SessionName.from_records(content))


@dataclass(frozen=True, kw_only=True)
class MaskReply:
    """What brings a masked update.

    Attributes:
        masked: the update.
    """

    masked: MaskedVector

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        return RecordDict(
            {_MASKED: bytes_record(_bytes_of(self.masked.words)), _RECORD: _record(self.masked.to_fields())}
        )

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: it is missing or malformed.
        """
        # Not by Flower's views of a content: they refer to themselves, and would keep the update.
        record = content.get(_MASKED)
        if not isinstance(record, ArrayRecord) or sum(isinstance(each, ArrayRecord) for each in content.values()) != 1:
            raise TransportError("the reply has no masked update")
        return cls(masked=MaskedVector.from_fields(_fields(content), np.frombuffer(bytes_of(record), np.uint8)))


@dataclass(frozen=True, kw_only=True)
class UnmaskQuery(_Query[UnmaskRequest]):
    """What asks for shares, which take the masks off a sum."""

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: something is missing or malformed.
        """
        return cls(request=UnmaskRequest.from_fields(_fields(content)), session=SessionName.from_records(content))


@dataclass(frozen=True, kw_only=True)
class UnmaskReply:
    """What brings shares.

    Attributes:
        shares: the shares.
    """

    shares: UnmaskedShares

    def to_records(self) -> RecordDict:
        """Return it as the content of a message."""
        return RecordDict({_RECORD: _record(self.shares.to_fields())})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: they are missing or malformed.
        """
        return cls(shares=UnmaskedShares.from_fields(_fields(content)))


def asks_for_a_sum(content: RecordDict) -> bool:
    """Say whether a content has a request of secure aggregation."""
    return _RECORD in content.config_records


def without_session(content: RecordDict) -> RecordDict:
    """Return a content for the application. The request stays, which tells it that its update is masked."""
    return RecordDict({name: record for name, record in content.items() if name != _SESSION})


def _record(fields: Mapping[str, object]) -> ConfigRecord:
    return ConfigRecord(cast("dict[str, Any]", dict(fields)))


def _bytes_of(words: NDArray[np.uint8]) -> bytes:
    """Return words as bytes, without a copy where they are a view of all of some."""
    whole: object = words.base
    return whole if type(whole) is bytes and len(whole) == words.nbytes else words.tobytes()


def _fields(content: RecordDict) -> dict[str, object]:
    record = content.get(_RECORD)
    if not isinstance(record, ConfigRecord):
        raise TransportError(f"the message has no record {_RECORD!r}")
    return dict(record)
