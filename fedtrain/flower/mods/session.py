"""Answer a server that offers a session, or ends one."""

import json
from collections.abc import Mapping

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedtrain.crypto import SignedEnvelope
from fedtrain.errors import TransportError
from fedtrain.flower.mods.endpoint import Endpoint, OpenEndpoint, required
from fedtrain.flower.sessions import (
    END,
    KEYS,
    MEMBERSHIP,
    OFFER,
    RECORD,
    ROSTER,
    SEALING,
    VERSION,
    is_of_a_session,
)
from fedtrain.messaging import PROTOCOL, SessionEnd, SessionOffer
from fedtrain.trust import Roster, SessionKeys


def session_mod(open_endpoint: OpenEndpoint) -> Mod:
    """Return the mod. It belongs inside of the sealed mod, and outside of whatever does not know of sessions."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not is_of_a_session(message):
            return call_next(message, context)
        endpoint, fields = required(open_endpoint(context)), dict(message.content.config_records[RECORD])
        if END in fields:
            _end(*_signed(fields, END), endpoint)
            answer = ConfigRecord()
        else:
            answer = _announced(*_signed(fields, OFFER), _membership(fields), endpoint)
        return Message(RecordDict({RECORD: answer}), reply_to=message)

    return mod


def _announced(
    envelope: SignedEnvelope, roster: Roster, membership: SignedEnvelope | None, endpoint: Endpoint
) -> ConfigRecord:
    """Make keys for a session, and return them."""
    offer = SessionOffer.verify(envelope, roster.server)
    if offer.roster != roster.digest:
        raise TransportError("the server offers a session for other identities than those that it shows")
    endpoint.accept(roster, membership)
    secrets = endpoint.sessions.begin(run=offer.run, session=offer.session, roster=offer.roster, start=offer.start)
    keys = SessionKeys.of(secrets, run=offer.run, session=offer.session, roster=offer.roster, party=endpoint.name)
    return ConfigRecord(
        {KEYS: keys.sign(endpoint.identity).line(), SEALING: secrets.sealing.public.key, VERSION: PROTOCOL}
    )


def _end(envelope: SignedEnvelope, roster: Roster, endpoint: Endpoint) -> None:
    """Delete the keys of a session that the server of this very session ends."""
    end = SessionEnd.verify(envelope, roster.server)
    if endpoint.sessions.roster(run=end.run, session=end.session) != roster.digest:
        raise TransportError("a session is ended by others than those that it is with")
    endpoint.sessions.end(run=end.run)


def _signed(fields: Mapping[str, object], name: str) -> tuple[SignedEnvelope, Roster]:
    signed, roster = fields.get(name), fields.get(ROSTER)
    if not (isinstance(signed, bytes) and isinstance(roster, bytes)):
        raise TransportError(f"a message about a session is malformed: it has a signed {name} and a roster")
    try:
        return SignedEnvelope.from_line(signed), Roster.from_json(json.loads(roster))
    except (ValueError, RecursionError) as error:
        raise TransportError(f"the roster in the {name} of a session cannot be used: {error}") from error


def _membership(fields: Mapping[str, object]) -> SignedEnvelope | None:
    line = fields.get(MEMBERSHIP)
    return SignedEnvelope.from_line(line) if isinstance(line, bytes) else None
