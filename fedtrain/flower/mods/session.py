"""Answer a server that offers a session, or ends one."""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedtrain import __version__
from fedtrain.errors import TransportError
from fedtrain.flower.messages.session import (
    AnnouncedKeys,
    ConfirmedEnd,
    EndedSession,
    OfferedSession,
    ends_a_session,
    is_of_a_session,
)
from fedtrain.flower.mods.endpoint import Endpoint, OpenEndpoint, required
from fedtrain.messaging import SessionEnd, SessionOffer
from fedtrain.trust import SessionKeys


def session_mod(open_endpoint: OpenEndpoint) -> Mod:
    """Return the mod. It belongs inside of the sealed mod, and outside of whatever does not know of sessions."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not is_of_a_session(message):
            return call_next(message, context)
        return Message(_answer(message.content, required(open_endpoint(context))), reply_to=message)

    return mod


def _answer(content: RecordDict, endpoint: Endpoint) -> RecordDict:
    if ends_a_session(content):
        _end(EndedSession.from_records(content), endpoint)
        return ConfirmedEnd().to_records()
    return _announced(OfferedSession.from_records(content), endpoint).to_records()


def _announced(offered: OfferedSession, endpoint: Endpoint) -> AnnouncedKeys:
    """Make keys for a session, and return them."""
    offer = SessionOffer.verify(offered.offer, offered.roster.server)
    if offer.roster != offered.roster.digest:
        raise TransportError("the server offers a session for other identities than those that it shows")
    endpoint.accept(offered.roster, offered.membership)
    secrets = endpoint.sessions.begin(run=offer.run, session=offer.session, roster=offer.roster, start=offer.start)
    keys = SessionKeys.of(secrets, run=offer.run, session=offer.session, roster=offer.roster, party=endpoint.name)
    return AnnouncedKeys(
        keys=keys.sign(endpoint.identity),
        sealing=secrets.sealing.public,
        software=__version__,
        directions=None if endpoint.node is None else endpoint.node.federation.directions,
    )


def _end(ended: EndedSession, endpoint: Endpoint) -> None:
    """Delete the keys of a session that the server of this very session ends."""
    end = SessionEnd.verify(ended.end, ended.roster.server)
    if endpoint.sessions.roster(run=end.run, session=end.session) != ended.roster.digest:
        raise TransportError("a session is ended by others than those that it is with")
    endpoint.sessions.end(run=end.run)
