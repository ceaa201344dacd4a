"""Set a session up, and end it: one question to each client, as the server asks it.

The server offers the session in its own name and shows the identities that it pins; each client announces its keys in
its own. All later messages of the session are sealed to these keys, and masks are agreed on with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
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
from fedtrain.errors import TransportError
from fedtrain.flower.answers import answers
from fedtrain.transport import SessionEnd, SessionOffer

RECORD = "fedtrain.session"
OFFER, END, ROSTER, KEYS, SEALING = "offer", "end", "roster", "keys", "sealing"


@dataclass(frozen=True, kw_only=True)
class ServerSession:
    """A session, as its server holds it.

    Attributes:
        run: id of the run.
        session: id of the session.
        start: which start of the run's server it is.
        config: digest of the configuration.
        identity: the server's identity.
        key: opens what clients send; made for this session, and never stored.
        roster: the pinned identities.
        announcements: the signed keys of each client that takes part.
        sealing: the sealing key of each.
    """

    run: str
    session: str
    start: int
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
    messages = _questions(clients, OFFER, offer.sign(identity), roster)
    announced, missing = answers(
        grid,
        clients,
        messages,
        lambda client, content: _announcement(content, client, offer, roster),
        timeout=timeout,
    )
    session = ServerSession(
        run=offer.run,
        session=offer.session,
        start=offer.start,
        config=config,
        identity=identity,
        key=key,
        roster=roster,
        announcements={client: envelope for client, (envelope, _) in announced.items()},
        sealing={client: public for client, (_, public) in announced.items()},
    )
    return session, missing


def end_session(grid: Grid, clients: Mapping[int, int], session: ServerSession, *, timeout: float) -> tuple[int, ...]:
    """Ask each client to delete its keys of a session, and return those that did not say that they have.

    Nobody is waited for longer than ``timeout`` seconds.
    """
    end = SessionEnd(run=session.run, session=session.session, roster=session.roster.digest, start=session.start).sign(
        session.identity
    )
    questions = _questions(clients, END, end, session.roster)
    _, missing = answers(grid, clients, questions, lambda _, content: content, timeout=timeout)
    return tuple(sorted(missing))


def _questions(clients: Mapping[int, int], name: str, signed: SignedEnvelope, roster: Roster) -> list[Message]:
    question = ConfigRecord({name: signed.line(), ROSTER: canonical(roster.as_json())})
    return [Message(RecordDict({RECORD: question}), node, MessageType.QUERY) for node in clients]


def _announcement(
    content: RecordDict, client: int, offer: SessionOffer, roster: Roster
) -> tuple[SignedEnvelope, PublicSealingKey]:
    record: Mapping[str, Any] = content.config_records.get(RECORD, ConfigRecord())
    line, sealing = record.get(KEYS), record.get(SEALING)
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
