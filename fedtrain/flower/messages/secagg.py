"""The messages of secure aggregation in Flower's records."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedtrain.errors import TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import bytes_of, bytes_record
from fedtrain.flower.sessions import ServerSession
from fedtrain.secagg import MaskedVector, MaskRequest, UnmaskedShares, UnmaskRequest

RECORD = protocol.SECAGG
_SESSION = "secagg.session"
_MASKED = "masked"


class SessionName(TypedDict):
    """Which session a request is of."""

    run: str
    session: str


def read_session(content: RecordDict) -> SessionName:
    """Return the run and the session that a request is of.

    Raises:
        TransportError: they are missing.
    """
    match dict(content.config_records.get(_SESSION, ConfigRecord())):
        case {"run": str(run), "session": str(session), **rest} if not rest:
            return {"run": run, "session": session}
    raise TransportError("a request of secure aggregation does not say of which run and session it is")


def ask_masked(session: ServerSession, request: MaskRequest) -> RecordDict:
    """Return what a message holds that asks for a masked update, besides the model and the settings."""
    return RecordDict({RECORD: _record(request.to_fields()), _SESSION: _session(session)})


def read_mask_request(content: RecordDict) -> MaskRequest:
    """Return the request.

    Raises:
        TransportError: it is missing or malformed.
    """
    return MaskRequest.from_fields(_fields(content))


def without_session(content: RecordDict) -> RecordDict:
    """Return a content for the application. The request stays, which tells it that its update is masked."""
    return RecordDict({name: record for name, record in content.items() if name != _SESSION})


def answer_masked(masked: MaskedVector) -> RecordDict:
    """Return what a reply holds that brings a masked update."""
    return RecordDict({_MASKED: bytes_record(masked.words.tobytes()), RECORD: _record(masked.to_fields())})


def read_masked(content: RecordDict) -> MaskedVector:
    """Return the masked update of a reply.

    Raises:
        TransportError: it is missing or malformed.
    """
    record = content.array_records.get(_MASKED)
    if record is None or len(content.array_records) != 1:
        raise TransportError("the reply has no masked update")
    return MaskedVector.from_fields(_fields(content), np.frombuffer(bytes_of(record), np.uint8))


def ask_unmasked(session: ServerSession, request: UnmaskRequest) -> RecordDict:
    """Return the content of a message that asks for shares."""
    return RecordDict({RECORD: _record(request.to_fields()), _SESSION: _session(session)})


def read_unmask_request(content: RecordDict) -> UnmaskRequest:
    """Return the request for shares.

    Raises:
        TransportError: it is missing or malformed.
    """
    return UnmaskRequest.from_fields(_fields(content))


def answer_unmasked(shares: UnmaskedShares) -> RecordDict:
    """Return the content of a reply that brings shares."""
    return RecordDict({RECORD: _record(shares.to_fields())})


def read_unmasked(content: RecordDict) -> UnmaskedShares:
    """Return the shares of a reply.

    Raises:
        TransportError: they are missing or malformed.
    """
    return UnmaskedShares.from_fields(_fields(content))


def _session(session: ServerSession) -> ConfigRecord:
    return ConfigRecord({"run": session.run, "session": session.session})


def _record(fields: Mapping[str, object]) -> ConfigRecord:
    return ConfigRecord(cast("dict[str, Any]", dict(fields)))


def _fields(content: RecordDict) -> dict[str, object]:
    record = content.config_records.get(RECORD)
    if record is None:
        raise TransportError(f"the message has no record {RECORD!r}")
    return dict(record)
