"""Seal what leaves the server and open what comes back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedtrain.errors import TransportError
from fedtrain.flower.grids.base import GridWrapper
from fedtrain.flower.messages.sealed import Packed, arrays_of, own_of, round_of, unpacked
from fedtrain.flower.sessions import ServerSession
from fedtrain.memory import give_back_models
from fedtrain.messaging import Body, Header, open_sealed, seal
from fedtrain.trust import SERVER, client_name


class SealedGrid(GridWrapper):
    """Sends each message to one client alone, and accepts no reply but that client's to that very message.

    Models are encrypted once however many clients get them. A reply that cannot be opened, or that answers another
    message, is an error reply with the reason. Errors that a runtime reports in a client's place are passed on: they
    say that there is no reply, and anyone in between can see to that.
    """

    def __init__(self, inner: Grid, *, clients: Mapping[int, int], session: ServerSession) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            clients: the client of each node; all are parties of the session.
            session: the session.
        """
        super().__init__(inner)
        self._clients = dict(clients)
        self._session = session
        self._sequence = 0
        self._open: dict[str, tuple[Message, Header]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Seal messages, each for its node, and send them."""
        messages = list(messages)
        bodies: dict[tuple[int, ...], Body] = {}
        headers = [self._header(message) for message in messages]
        # The copy has the same metadata object, so that the id which the grid inside gives it is the original's too.
        sealed = [
            make_message(metadata=message.metadata, content=self._sealed(message, header, bodies))
            for message, header in zip(messages, headers, strict=True)
        ]
        ids = list(self._inner.push_messages(sealed))
        size = sum(len(body.ciphertext) for body in bodies.values())
        sealed.clear()
        bodies.clear()
        give_back_models(size)
        # Without their models, which would otherwise be kept for as long as somebody does not answer.
        asked = [make_message(metadata=message.metadata, content=RecordDict()) for message in messages]
        self._open.update(zip(ids, zip(asked, headers, strict=True), strict=False))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies so far, opened; those that cannot be are error replies."""
        replies, opened = list(self._inner.pull_messages(message_ids)), []
        while replies:  # one after the other, and each is let go when it was opened
            if replies[0].metadata.reply_to_message_id in self._open:
                opened.append(self._opened(replies.pop(0)))
            else:
                del replies[0]
        return opened

    def _header(self, message: Message) -> Header:
        self._sequence += 1
        return Header(
            run=self._session.run,
            session=self._session.session,
            config=self._session.config,
            phase=message.metadata.message_type,
            round=round_of(message.content),
            direction="to client",
            sender=SERVER,
            recipient=client_name(self._clients[message.metadata.dst_node_id]),
            sequence=self._sequence,
        )

    def _sealed(self, message: Message, header: Header, bodies: dict[tuple[int, ...], Body]) -> RecordDict:
        # Messages share their models.
        key = tuple(id(record) for record in message.content.values() if isinstance(record, ArrayRecord))
        if key not in bodies:
            bodies[key] = Body.encrypt(arrays_of(message.content))
        own = own_of(message.content, reply_key=self._session.key.public.key)
        recipient = self._session.sealing[self._clients[message.metadata.dst_node_id]]
        sealed = seal(header, body=bodies[key], own=own, identity=self._session.identity, recipient=recipient)
        return Packed(header=header.encode(), sealed=sealed, body=bodies[key].ciphertext).to_records()

    def _opened(self, reply: Message) -> Message:
        request, header = self._open.pop(reply.metadata.reply_to_message_id)
        if reply.has_error():
            return Message(reply.error, reply_to=request)
        client = self._clients[request.metadata.dst_node_id]
        try:
            content: RecordDict | Error = self._content(reply.content, header, client)
        except TransportError as error:
            content = Error(
                code=ErrorCode.MOD_FAILED_PRECONDITION, reason=f"the reply of client {client} cannot be used: {error}"
            )
        return Message(content, reply_to=request)

    def _content(self, content: RecordDict, request: Header, client: int) -> RecordDict | Error:
        expected = replace(request, direction="to server", sender=client_name(client), recipient=SERVER)
        packed = Packed.from_records(content)
        if packed.header != expected.encode():
            raise TransportError("it does not answer the message that it was sent for")
        own, body = open_sealed(
            packed.sealed,
            packed.body,
            header=expected,
            key=self._session.key,
            sender=self._session.roster.clients[client],
        )
        return unpacked(own, body)[0]
