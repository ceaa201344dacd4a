"""Open what the server sealed, and seal what goes back to it, also where the client fails."""

import traceback
from dataclasses import replace

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.app.message import make_message
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common.constant import ErrorCode

from fedtrain.crypto import PublicSealingKey
from fedtrain.errors import TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.sealed import Packed, arrays_of, failure, is_sealed, own_of, unpacked
from fedtrain.flower.messages.session import is_of_a_session
from fedtrain.flower.mods.endpoint import Endpoint, OpenEndpoint, required
from fedtrain.messaging import Body, Header, open_sealed, seal
from fedtrain.trust import SERVER

# The end of a traceback says what went wrong.
_REASON_LENGTH = 8000


def sealed_mod(open_endpoint: OpenEndpoint) -> Mod:
    """Return the mod. It belongs outside of whatever sees models or updates.

    A message that is not sealed passes as it came, unless this client insists on sealed ones: then only questions
    pass that have nothing to do with a model or an update, and on a machine of its own only those about sessions.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        known = open_endpoint(context)
        if not is_sealed(message.content):
            if known is not None and known.sealed and not _passes(message, known):
                raise TransportError(
                    f"{known.name} answers sealed messages only, and this one is not: set transport.sealed = true"
                )
            return call_next(message, context)
        endpoint = required(known)
        request, header, reply_key = _opened(message, endpoint)
        try:
            answer: RecordDict | Error = _answer(call_next(request, context))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for the server alone
            reason = "".join(traceback.format_exception(error))[-_REASON_LENGTH:]
            answer = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
        return Message(_sealed(answer, endpoint, header, reply_key), reply_to=message)

    return mod


def _passes(message: Message, endpoint: Endpoint) -> bool:
    if endpoint.node is not None:
        return is_of_a_session(message)  # which the session mod answers, and never the application
    return message.metadata.message_type == MessageType.QUERY and protocol.SECAGG not in message.content


def _answer(reply: Message) -> RecordDict | Error:
    return reply.error if reply.has_error() else reply.content


def _opened(message: Message, endpoint: Endpoint) -> tuple[Message, Header, PublicSealingKey]:
    packed = Packed.from_records(message.content)
    header = Header.decode(packed.header)
    expected = replace(
        header,
        config=endpoint.config,
        phase=message.metadata.message_type,
        direction="to client",
        sender=SERVER,
        recipient=endpoint.name,
    )
    if header != expected:
        raise TransportError(
            f"the message is bound to {_differences(header, expected)}: it was sent on another occasion, to another "
            "client, or with another configuration"
        )
    sessions = endpoint.sessions
    secrets = sessions.secrets(run=header.run, session=header.session)
    server = endpoint.roster(run=header.run, session=header.session).server
    own, body = open_sealed(packed.sealed, packed.body, header=header, key=secrets.sealing, sender=server)
    # After it was opened: what the server did not send must not make the next message look like an old one.
    sessions.advance(run=header.run, session=header.session, sequence=header.sequence)
    content, key = unpacked(own, body)
    if isinstance(content, Error):
        raise TransportError("the server sent an error, and nothing to do")
    try:
        sealing_key = PublicSealingKey(key=key)
    except ValueError as error:
        raise TransportError(f"the server's sealing key cannot be used: {error}") from error
    return make_message(metadata=message.metadata, content=content), header, sealing_key


def _differences(header: Header, expected: Header) -> str:
    names = ("config", "phase", "direction", "sender", "recipient")
    return ", ".join(
        f"{name} {getattr(header, name)!r} instead of {getattr(expected, name)!r}"
        for name in names
        if getattr(header, name) != getattr(expected, name)
    )


def _sealed(answer: RecordDict | Error, endpoint: Endpoint, request: Header, recipient: PublicSealingKey) -> RecordDict:
    header = replace(request, direction="to server", sender=endpoint.name, recipient=SERVER)
    own = failure(answer) if isinstance(answer, Error) else own_of(answer)
    body = Body.encrypt(arrays_of(RecordDict() if isinstance(answer, Error) else answer))
    sealed = seal(header, body=body, own=own, identity=endpoint.identity, recipient=recipient)
    return Packed(header=header.encode(), sealed=sealed, body=body.ciphertext).to_records()
