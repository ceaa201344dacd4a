"""Send a masked update in the place of an update, and help to take the masks off the sum."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray

from fedtrain.errors import ConfigError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.sealed import round_of
from fedtrain.flower.messages.secagg import (
    MaskQuery,
    MaskReply,
    SessionName,
    UnmaskQuery,
    UnmaskReply,
    asks_for_a_sum,
    without_session,
)
from fedtrain.flower.mods.endpoint import Endpoint, OpenEndpoint, kept_here, required
from fedtrain.flower.summing import Summing, to_vector
from fedtrain.secagg import Client, ClientState, MaskedVector, MaskRequest, UnmaskedShares
from fedtrain.trust import SessionKeys


def secagg_mod(open_endpoint: OpenEndpoint) -> Mod:
    """Return the mod. It belongs inside of the sealed mod, and outside of whatever makes the update.

    The request is checked before the application sees the message: nothing is trained for a sum that this client has
    no part in, that its own configuration would make otherwise, or whose members are asked for different work or have
    other configurations. What the client remembers of a round is on its disk before anything leaves.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        kind = message.metadata.message_type
        if asks_for_a_sum(message.content):
            if kind == MessageType.QUERY:
                return _unmasked(message, required(open_endpoint(context)))
            return _masked(message, context, call_next, required(open_endpoint(context)))
        endpoint = open_endpoint(context)
        if kind.startswith(MessageType.TRAIN) and endpoint is not None and endpoint.secagg:
            raise TransportError(
                f"{endpoint.name} sends masked updates only, and none is asked for: set transport.secagg.enabled = true"
            )
        return call_next(message, context)

    return mod


def _masked(message: Message, context: Context, call_next: ClientAppCallable, endpoint: Endpoint) -> Message:
    query = MaskQuery.from_records(message.content)
    request, session = query.request, query.session
    received = _only(message.content, "the message")
    settings = message.content.config_records.get(protocol.CONFIG, ConfigRecord())
    summing = endpoint.summing.in_round(settings)
    work = protocol.work_digest(endpoint.digest(received, settings), config=endpoint.config)
    _check(request, summing, received, work=work)
    client = _opened(endpoint, session)
    client.state = _state(endpoint.sessions.state(run=session.run, session=session.session))
    client.begin(request)
    reply = call_next(make_message(metadata=message.metadata, content=without_session(message.content)), context)
    if reply.has_error() or not reply.content.array_records:
        return reply  # the application refuses: nothing of it is an update

    def words() -> NDArray[np.uint32]:
        trained = _only(reply.content, "the update")
        found = to_vector(
            summing.layout,
            request.parameters,
            received=received,
            trained=trained,
            metrics=next(iter(reply.content.metric_records.values()), MetricRecord()),
            random=summing.random(client=endpoint.client, round_number=round_of(message.content)),
        )
        # Both models were for the update alone, and others still have the records.
        received.clear()
        trained.clear()
        return found

    vector = kept_here(words, "the update cannot be summed")

    def mask(state: bytes | None) -> tuple[bytes, MaskedVector]:
        # Checked again: another message may have come while this one was worked on.
        client.state = _state(state)
        client.begin(request)
        masked = client.mask(vector)
        return client.state.to_json(), masked

    masked = endpoint.sessions.update(run=session.run, session=session.session, change=mask)
    others = {name: record for name, record in reply.content.items() if isinstance(record, ConfigRecord)}
    return Message(RecordDict({**others, **MaskReply(masked=masked).to_records()}), reply_to=message)


def _check(request: MaskRequest, summing: Summing, received: ArrayRecord, *, work: str) -> None:
    """Check that a sum is asked for as this client would ask for it, of all members alike.

    Args:
        request: what the server asks for.
        summing: how this client sums.
        received: the model.
        work: the digest of what this client is asked for, by itself, with its own configuration.

    Raises:
        TransportError: it is not.
    """
    try:
        expected = summing.parameters(members=request.parameters.members, sent=received)
    except ConfigError as error:
        raise TransportError(f"a sum over {request.parameters.members} clients is refused: {error}") from error
    if request.parameters != expected:
        raise TransportError(
            f"a sum is asked for with {request.parameters}, and this client's configuration says {expected}"
        )
    summing.layout.norm_within(expected)  # which a grid that is too coarse leaves nothing of
    if request.work != work:
        raise TransportError(
            "the members of the cohort are asked for other work than this client, or have another configuration"
        )


def _unmasked(message: Message, endpoint: Endpoint) -> Message:
    query = UnmaskQuery.from_records(message.content)
    session, client = query.session, _opened(endpoint, query.session)

    def unmask(state: bytes | None) -> tuple[bytes, UnmaskedShares]:
        client.state = _state(state)
        shares = client.unmask(query.request)
        return client.state.to_json(), shares

    shares = endpoint.sessions.update(run=session.run, session=session.session, change=unmask)
    return Message(UnmaskReply(shares=shares).to_records(), reply_to=message)


def _opened(endpoint: Endpoint, session: SessionName) -> Client:
    """Return the client of a session, as if nothing had come before."""
    run, name = session.run, session.session
    secrets = endpoint.sessions.secrets(run=run, session=name)
    roster = endpoint.roster(run=run, session=name)
    keys = SessionKeys.of(secrets, run=run, session=name, roster=roster.digest, party=endpoint.name)
    return Client(
        client=endpoint.client,
        secrets=secrets,
        announcement=keys.sign(endpoint.identity),
        roster=roster,
        minimum=endpoint.minimum,
        state=ClientState(),
    )


def _state(data: bytes | None) -> ClientState:
    return ClientState() if data is None else ClientState.from_json(data)


def _only(content: RecordDict, what: str) -> ArrayRecord:
    records = list(content.array_records.values())
    if len(records) != 1:
        raise TransportError(f"{what} has {len(records)} array records, and one can be summed")
    return records[0]
