"""Set a session up: one question to each client, which answers with the public keys that it made for it.

The server offers the session in its own name and shows the identities that it pins; each client announces its keys in
its own. All later messages of the session are sealed to these keys, and masks are agreed on with them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.serverapp import Grid

from fedtrain.crypto import (
    Identity,
    PublicSealingKey,
    Roster,
    SealingKey,
    SessionKeys,
    SignedEnvelope,
    canonical,
    client_name,
)
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.flower.transport.party import OpenParty, required
from fedtrain.flower.wrapper import collect
from fedtrain.transport import SessionOffer

_RECORD = "fedtrain.session"
_OFFER, _ROSTER, _KEYS, _SEALING = "offer", "roster", "keys", "sealing"


@dataclass(frozen=True, kw_only=True)
class ServerSession:
    """A session, as its server holds it.

    Attributes:
        run: id of the run.
        session: id of the session.
        config: digest of the configuration.
        identity: the server's identity.
        key: opens what clients send; made for this session, and never stored.
        roster: the pinned identities.
        announcements: the signed keys of each client that takes part.
        sealing: the sealing key of each.
    """

    run: str
    session: str
    config: str
    identity: Identity
    key: SealingKey
    roster: Roster
    announcements: Mapping[int, SignedEnvelope]
    sealing: Mapping[int, PublicSealingKey]


def open_session(
    grid: Grid,
    clients: Mapping[int, int],
    *,
    offer: SessionOffer,
    config: str,
    identity: Identity,
    key: SealingKey,
    roster: Roster,
    timeout: float,
) -> tuple[ServerSession, dict[int, str]]:
    """Ask each client for its keys; return the session of those that answered, and why the others are not in it.

    Args:
        grid: where the clients are.
        clients: the client of each node.
        offer: the session.
        config: digest of the configuration.
        identity: the server's identity.
        key: a fresh key.
        roster: the pinned identities.
        timeout: seconds to wait.
    """
    question = ConfigRecord({_OFFER: offer.sign(identity).line(), _ROSTER: canonical(roster.as_json())})
    messages = [Message(RecordDict({_RECORD: question}), node, MessageType.QUERY) for node in clients]
    missing = dict.fromkeys(clients.values(), "no answer")
    announcements: dict[int, SignedEnvelope] = {}
    sealing: dict[int, PublicSealingKey] = {}
    for reply in collect(grid, messages, timeout=timeout):
        client = clients[reply.metadata.src_node_id]
        if reply.has_error():
            missing[client] = reply.error.reason or "no reason given"
            continue
        try:
            announcements[client], sealing[client] = _announcement(reply.content, client, offer, roster)
            del missing[client]
        except (ForgeryError, TransportError) as error:
            missing[client] = str(error)
    session = ServerSession(
        run=offer.run,
        session=offer.session,
        config=config,
        identity=identity,
        key=key,
        roster=roster,
        announcements=announcements,
        sealing=sealing,
    )
    return session, missing


def session_mod(open_party: OpenParty) -> Mod:
    """Return the mod that answers the offer of a session. It belongs outside of all others."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if _RECORD not in message.content.config_records:
            return call_next(message, context)
        party = required(open_party(context))
        envelope, roster = _offered(message.content)
        offer = SessionOffer.verify(envelope, roster.server)
        if offer.roster != roster.digest:
            raise TransportError("the server offers a session for other identities than those that it shows")
        party.accept(roster)
        secrets = party.sessions.begin(run=offer.run, session=offer.session, roster=offer.roster)
        keys = SessionKeys.of(
            secrets, run=offer.run, session=offer.session, roster=offer.roster, party=party.name
        ).sign(party.identity)
        answer = ConfigRecord({_KEYS: keys.line(), _SEALING: secrets.sealing.public.key})
        return Message(RecordDict({_RECORD: answer}), reply_to=message)

    return mod


def _offered(content: RecordDict) -> tuple[SignedEnvelope, Roster]:
    record = content.config_records.get(_RECORD, ConfigRecord())
    offer, roster = record.get(_OFFER), record.get(_ROSTER)
    if not (isinstance(offer, bytes) and isinstance(roster, bytes)):
        raise TransportError("the offer of a session is malformed: it has an offer and a roster")
    try:
        return SignedEnvelope.from_line(offer), Roster.from_json(json.loads(roster))
    except (ValueError, RecursionError) as error:
        raise TransportError(f"the roster in the offer of a session cannot be used: {error}") from error


def _announcement(
    content: RecordDict, client: int, offer: SessionOffer, roster: Roster
) -> tuple[SignedEnvelope, PublicSealingKey]:
    record: Mapping[str, Any] = content.config_records.get(_RECORD, ConfigRecord())
    line, sealing = record.get(_KEYS), record.get(_SEALING)
    if not (isinstance(line, bytes) and isinstance(sealing, bytes)):
        raise TransportError("its answer is malformed: it has signed keys and a sealing key")
    envelope = SignedEnvelope.from_line(line)
    keys = SessionKeys.verify(envelope, roster.clients[client])
    said = (keys.run, keys.session, keys.roster, keys.party)
    if said != (offer.run, offer.session, offer.roster, client_name(client)):
        raise TransportError("its keys are announced for another session, or in another name")
    try:
        public = PublicSealingKey(key=sealing)
    except ValueError as error:
        raise TransportError(f"its sealing key cannot be used: {error}") from error
    if public.digest != keys.sealing:
        raise TransportError("its sealing key is not the one that it signed")
    return envelope, public
