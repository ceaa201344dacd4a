"""Set a session up, and end it: one question to each client, as the server asks it.

The server offers the session in its own name and shows the identities that it pins; each client announces its keys in
its own. All later messages of the session are sealed to these keys, and masks are agreed on with them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedtrain.crypto import Identity, PublicSealingKey, SealingKey, SignedEnvelope
from fedtrain.errors import TransportError
from fedtrain.flower.grids.base import answers
from fedtrain.flower.messages.session import AnnouncedKeys, EndedSession, OfferedSession
from fedtrain.messaging import SessionEnd, SessionOffer
from fedtrain.trust import Roster, SessionKeys, client_name


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
        software: the version of fedtrain that each says it runs, where it says one.
        directions: the version of the operator's directions that each says it follows, where it says one.
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
    software: Mapping[int, str]
    directions: Mapping[int, int]


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
    announced, missing = answers(
        grid,
        clients,
        _questions(clients, OfferedSession(offer=offer.sign(identity), roster=roster)),
        lambda client, content: _announcement(content, offer, roster, expected=client),
        timeout=timeout,
    )
    return _session(announced.values(), offer, config=config, identity=identity, key=key, roster=roster), missing


def meet_members(
    grid: Grid,
    nodes: Iterable[int],
    *,
    offer: SessionOffer,
    config: str,
    identity: Identity,
    key: SealingKey,
    roster: Roster,
    membership: SignedEnvelope,
    timeout: float,
) -> tuple[ServerSession, dict[int, int], dict[int, str]]:
    """Open a session with nodes of which nobody knows yet which clients they are: their signatures tell.

    Args:
        grid: where the nodes are.
        nodes: their ids.
        offer: the session.
        config: digest of the configuration.
        identity: the server's identity.
        key: a fresh key.
        roster: the identities of the membership.
        membership: who belongs to the federation, as the operator signed it.
        timeout: seconds to wait.

    Returns:
        the session, the client of each node that takes part, and by node why the others do not.
    """
    parties = {node: node for node in nodes}
    announced, missing = answers(
        grid,
        parties,
        _questions(parties, OfferedSession(offer=offer.sign(identity), roster=roster, membership=membership)),
        lambda _, content: _announcement(content, offer, roster),
        timeout=timeout,
    )
    holders = Counter(one.client for one in announced.values())
    for node, one in list(announced.items()):
        if holders[one.client] > 1:
            del announced[node]
            missing[node] = f"{holders[one.client]} nodes hold the key of client {one.client}: stop all but one of them"
    session = _session(announced.values(), offer, config=config, identity=identity, key=key, roster=roster)
    return session, {node: one.client for node, one in announced.items()}, missing


def end_session(grid: Grid, clients: Mapping[int, int], session: ServerSession, *, timeout: float) -> tuple[int, ...]:
    """Ask each client to delete its keys of a session, and return those that did not say that they have.

    Nobody is waited for longer than ``timeout`` seconds.
    """
    end = SessionEnd(run=session.run, session=session.session, roster=session.roster.digest, start=session.start).sign(
        session.identity
    )
    questions = _questions(clients, EndedSession(end=end, roster=session.roster))
    _, missing = answers(grid, clients, questions, lambda _, content: content, timeout=timeout)
    return tuple(sorted(missing))


def _questions(nodes: Iterable[int], asked: OfferedSession | EndedSession) -> list[Message]:
    content = asked.to_records()
    return [Message(RecordDict(dict(content)), node, MessageType.QUERY) for node in nodes]


@dataclass(frozen=True, kw_only=True)
class _Announced:
    """What a client announced, verified."""

    client: int
    envelope: SignedEnvelope
    sealing: PublicSealingKey
    software: str
    directions: int | None


def _session(
    announced: Iterable[_Announced],
    offer: SessionOffer,
    *,
    config: str,
    identity: Identity,
    key: SealingKey,
    roster: Roster,
) -> ServerSession:
    announced = list(announced)
    return ServerSession(
        run=offer.run,
        session=offer.session,
        start=offer.start,
        config=config,
        identity=identity,
        key=key,
        roster=roster,
        announcements={one.client: one.envelope for one in announced},
        sealing={one.client: one.sealing for one in announced},
        software={one.client: one.software for one in announced if one.software},
        directions={one.client: one.directions for one in announced if one.directions is not None},
    )


def _announcement(
    content: RecordDict, offer: SessionOffer, roster: Roster, *, expected: int | None = None
) -> _Announced:
    announced = AnnouncedKeys.from_records(content)
    client = _signer(announced.keys, roster) if expected is None else expected
    keys = SessionKeys.verify(announced.keys, roster.clients[client])
    said = (keys.run, keys.session, keys.roster, keys.party)
    if said != (offer.run, offer.session, offer.roster, client_name(client)):
        raise TransportError("its keys are announced for another session, or in another name")
    if announced.sealing.digest != keys.sealing:
        raise TransportError("its sealing key is not the one that it signed")
    return _Announced(
        client=client,
        envelope=announced.keys,
        sealing=announced.sealing,
        software=announced.software,
        directions=announced.directions,
    )


def _signer(envelope: SignedEnvelope, roster: Roster) -> int:
    for client, public in roster.clients.items():
        if public.key_id == envelope.key_id:
            return client
    raise TransportError(f"key {envelope.key_id[:16]}, which signed its announcement, is not a member's")
