"""Send a masked update in the place of an update, and help to take the masks off the sum."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedtrain.crypto import SessionKeys
from fedtrain.errors import TransportError
from fedtrain.flower.transport.party import OpenParty, Party, required
from fedtrain.flower.transport.secagg_messages import (
    RECORD,
    answer_masked,
    answer_unmasked,
    read_mask_request,
    read_session,
    read_unmask_request,
    without_mask_request,
)
from fedtrain.flower.transport.vector import to_vector
from fedtrain.secagg import Client, ClientState


def secagg_mod(open_party: OpenParty) -> Mod:
    """Return the mod. It belongs inside of the sealed mod, and outside of whatever makes the update.

    The request is checked before the application sees the message: nothing is trained for a sum that this client has
    no part in. What the client remembers of a round is on its disk before anything leaves.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        kind = message.metadata.message_type
        if RECORD in message.content.config_records:
            if kind == MessageType.QUERY:
                return _unmasked(message, required(open_party(context)))
            return _masked(message, context, call_next, required(open_party(context)))
        party = open_party(context)
        if kind.startswith(MessageType.TRAIN) and party is not None and party.secagg:
            raise TransportError(
                f"{party.name} sends masked updates only, and none is asked for: set transport.secagg.enabled = true"
            )
        return call_next(message, context)

    return mod


def _masked(message: Message, context: Context, call_next: ClientAppCallable, party: Party) -> Message:
    request, layout, rounding = read_mask_request(message.content)
    session = read_session(message.content)
    client = _client(party, **session)
    parameters = client.begin(request)
    received = _only(message.content, "the message")
    if parameters.length != layout.length(received):
        raise TransportError(
            f"the server asks for a vector of {parameters.length}, and its model makes one of {layout.length(received)}"
        )
    reply = call_next(make_message(metadata=message.metadata, content=without_mask_request(message.content)), context)
    if reply.has_error() or not reply.content.array_records:
        return reply  # the application refuses: nothing of it is an update
    metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
    vector = to_vector(
        layout,
        parameters,
        received=received,
        trained=_only(reply.content, "the update"),
        metrics=metrics,
        random=np.random.default_rng(rounding),
    )
    masked = client.mask(vector)
    party.sessions.save_state(**session, data=client.state.to_json())
    others = {name: record for name, record in reply.content.items() if isinstance(record, ConfigRecord)}
    return Message(RecordDict({**others, **answer_masked(masked)}), reply_to=message)


def _unmasked(message: Message, party: Party) -> Message:
    request = read_unmask_request(message.content)
    session = read_session(message.content)
    client = _client(party, **session)
    shares = client.unmask(request)
    party.sessions.save_state(**session, data=client.state.to_json())
    return Message(answer_unmasked(shares), reply_to=message)


def _client(party: Party, *, run: str, session: str) -> Client:
    sessions = party.sessions
    secrets = sessions.secrets(run=run, session=session)
    roster = party.roster(run=run, session=session)
    state = sessions.state(run=run, session=session)
    keys = SessionKeys.of(secrets, run=run, session=session, roster=roster.digest, party=party.name)
    return Client(
        client=party.client,
        secrets=secrets,
        announcement=keys.sign(party.identity),
        roster=roster,
        minimum=party.minimum,
        state=ClientState() if state is None else ClientState.from_json(state),
    )


def _only(content: RecordDict, what: str) -> ArrayRecord:
    records = list(content.array_records.values())
    if len(records) != 1:
        raise TransportError(f"{what} has {len(records)} array records, and one can be summed")
    return records[0]
