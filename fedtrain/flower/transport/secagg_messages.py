"""The messages of secure aggregation in Flower's records."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedtrain.errors import TransportError
from fedtrain.flower import protocol
from fedtrain.flower.transport.records import bytes_of, bytes_record
from fedtrain.flower.transport.session import ServerSession
from fedtrain.flower.transport.vector import Layout
from fedtrain.secagg import MaskedVector, MaskRequest, UnmaskedShares, UnmaskRequest

RECORD = protocol.SECAGG
_SESSION = "secagg.session"
_LAYOUT = "secagg.layout"
_MASKED = "masked"
_ROUNDING = "rounding"


def read_session(content: RecordDict) -> dict[Literal["run", "session"], str]:
    """Return the run and the session that a request is of.

    Raises:
        TransportError: they are missing.
    """
    match dict(content.config_records.get(_SESSION, ConfigRecord())):
        case {"run": str(run), "session": str(session), **rest} if not rest:
            return {"run": run, "session": session}
    raise TransportError("a request of secure aggregation does not say of which run and session it is")


def ask_masked(session: ServerSession, request: MaskRequest, layout: Layout, *, rounding: int) -> RecordDict:
    """Return what a message holds that asks for a masked update, besides the model and the settings."""
    fields = {
        "counters": list(layout.counters),
        "weight": layout.weight,
        "heaviest": layout.heaviest,
        "norm": layout.norm,
        _ROUNDING: rounding,
    }
    layout_record = ConfigRecord(cast("dict[str, Any]", fields))
    return RecordDict({RECORD: _record(request.to_fields()), _SESSION: _session(session), _LAYOUT: layout_record})


def read_mask_request(content: RecordDict) -> tuple[MaskRequest, Layout, int]:
    """Return the request, the layout of the vector, and the seed of its rounding.

    Raises:
        TransportError: they are missing or malformed.
    """
    fields = dict(content.config_records.get(_LAYOUT, ConfigRecord()))
    match fields:
        case {
            "counters": list(counters),
            "weight": str(weight),
            "heaviest": int(heaviest),
            "norm": float(norm),
            "rounding": int(rounding),
            **rest,
        } if not rest and all(isinstance(name, str) for name in counters):
            pass
        case _:
            raise TransportError("the layout of the vector to be summed is missing or malformed")
    names = cast("list[str]", counters)
    consistent = (weight in names and heaviest > 0) if weight else heaviest == 0
    if not (consistent and len(set(names)) == len(names) and 0 <= norm < np.inf and rounding >= 0):
        raise TransportError("the layout of the vector to be summed contradicts itself")
    layout = Layout(counters=tuple(names), weight=weight, heaviest=heaviest, norm=norm)
    return MaskRequest.from_fields(_fields(content)), layout, rounding


def without_mask_request(content: RecordDict) -> RecordDict:
    """Return a content for the application. The request stays, which tells it that its update is masked."""
    return RecordDict({name: record for name, record in content.items() if name not in {_LAYOUT, _SESSION}})


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
