"""Give a strategy one reply in the place of all: the average, of which the server knows the sum alone."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedtrain.errors import AggregationError, TransportError
from fedtrain.flower.grids.base import GridWrapper, by_client
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.secagg import ask_masked, ask_unmasked, read_masked, read_unmasked
from fedtrain.flower.sessions import ServerSession
from fedtrain.flower.summing import Layout, Outcome, Summing, Total, from_total
from fedtrain.secagg import Parameters, ServerRound

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Round:
    """A round in progress."""

    messages: list[Message]
    sent: ArrayRecord
    layout: Layout
    parameters: Parameters
    machine: ServerRound
    waiting: dict[str, int]
    unmasking: bool
    ends: float
    dropped: dict[int, str]
    silent: dict[int, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id that stands for all messages of the round."""
        return self.messages[0].metadata.message_id


class SecAggGrid(GridWrapper):
    """Sends the messages of a round to a cohort, and returns one reply that holds the average of their updates.

    ``push_messages`` takes the messages of one round and returns one id; the reply to it is the average, with the
    weight of all, or an error if the round had to be aborted. It comes after two exchanges, each of which takes at most
    ``deadline`` seconds. ``outcome`` says what became of the round. Messages that are not for training pass as they
    are.
    """

    def __init__(self, inner: Grid, *, clients: Mapping[int, int], session: ServerSession, summing: Summing) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            clients: the client of each node; all are parties of the session.
            session: the session.
            summing: how updates are summed.
        """
        super().__init__(inner)
        self._clients = dict(clients)
        self._nodes = {client: node for node, client in clients.items()}
        self._session = session
        self._summing = summing
        self._number = 0
        self._round: _Round | None = None
        self._on_masked: Callable[[], None] = lambda: None
        self.outcome: Outcome | None = None

    def watch(self, on_masked: Callable[[], None]) -> None:
        """Have a function called whenever a client has delivered its masked update, or fails to."""
        self._on_masked = on_masked

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Ask a cohort for masked updates.

        Raises:
            AggregationError: the messages are not one round's.
            ConfigError: no parameters are safe for the cohort.
        """
        messages = list(messages)
        kinds = {message.metadata.message_type for message in messages}
        if MessageType.TRAIN not in kinds:
            return self._inner.push_messages(messages)
        if len(kinds) > 1:
            raise AggregationError(f"messages of the types {sorted(kinds)} were sent at once; train alone is summed")
        self.outcome = None
        self._round = current = self._opened(messages)
        for message in messages:
            # Strategies put one content into all messages; it is not ours to change.
            asked = ask_masked(self._session, current.machine.request)
            message.content = RecordDict({**message.content, **asked})
        current.waiting = self._sent(self._inner.push_messages(messages), map(self._client, messages))
        unsent = set(map(self._client, messages)) - set(current.waiting.values())
        current.dropped = dict.fromkeys(unsent, "the message could not be sent")
        return [current.id]

    def _opened(self, messages: list[Message]) -> _Round:
        self._number += 1
        content = messages[0].content
        sent = next(iter(content.array_records.values()))
        settings = content.config_records.get(protocol.CONFIG, ConfigRecord())
        summing = self._summing.in_round(settings)
        parameters = summing.parameters(members=len(messages), sent=sent)
        machine = ServerRound(
            run=self._session.run,
            session=self._session.session,
            number=self._number,
            parameters=parameters,
            work=_work(messages),
            announcements={client: self._session.announcements[client] for client in map(self._client, messages)},
        )
        return _Round(
            messages=messages,
            sent=sent,
            layout=summing.layout,
            parameters=parameters,
            machine=machine,
            waiting={},
            unmasking=False,
            ends=time.monotonic() + self._summing.deadline,
            dropped={},
        )

    def _client(self, message: Message) -> int:
        return self._clients[message.metadata.dst_node_id]

    @staticmethod
    def _sent(ids: Iterable[str], clients: Iterable[int]) -> dict[str, int]:
        """Return whom each message went to. A grid that could not send one has no id, or none, in its place."""
        return {message_id: client for message_id, client in zip(ids, clients, strict=False) if message_id}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Carry the round on as far as replies have come; return the average once it is there."""
        message_ids = list(message_ids)
        current = self._round
        if current is None or current.id not in message_ids:
            return self._inner.pull_messages(message_ids)
        take = self._take_shares if current.unmasking else self._take_masked
        for reply in self._inner.pull_messages(list(current.waiting)):
            # What comes twice was taken once.
            client = current.waiting.pop(reply.metadata.reply_to_message_id, None)
            if client is not None:
                take(current, client, reply)
        if current.waiting and time.monotonic() < current.ends:
            return []
        try:
            if not current.unmasking:
                self._begin_unmasking(current)
                return []
            return [self._finished(current)]
        except AggregationError as error:
            return [self._aborted(current, error)]

    def _take_masked(self, current: _Round, client: int, reply: Message) -> None:
        self._on_masked()
        if reply.has_error():
            current.dropped[client] = reply.error.reason or "no reason given"
            return
        try:
            current.machine.receive(client, read_masked(reply.content))
        except TransportError as error:
            current.dropped[client] = f"unusable masked update: {error}"

    def _begin_unmasking(self, current: _Round) -> None:
        for client in current.waiting.values():
            current.dropped[client] = f"no masked update within {self._summing.deadline:g} seconds"
        requests = current.machine.close()
        messages = [
            Message(
                ask_unmasked(self._session, request), self._nodes[client], MessageType.QUERY, ttl=self._summing.deadline
            )
            for client, request in requests.items()
        ]
        current.waiting = self._sent(self._inner.push_messages(messages), requests)
        current.unmasking = True
        current.ends = time.monotonic() + self._summing.deadline

    def _take_shares(self, current: _Round, client: int, reply: Message) -> None:
        if reply.has_error():
            current.silent[client] = reply.error.reason or "no reason given"
            return
        try:
            current.machine.receive_shares(client, read_unmasked(reply.content))
        except TransportError as error:  # as if it had not answered: others hold shares too
            current.silent[client] = f"unusable shares: {error}"

    def _finished(self, current: _Round) -> Message:
        aggregate = current.machine.finish()
        for holder, owner in aggregate.doubts:
            _log.warning(
                "round %d of secure aggregation: the share of client %d's secrets that client %d has is wrong, or "
                "could not be opened; either may be at fault",
                self._number,
                owner,
                holder,
            )
        total = from_total(
            current.layout,
            current.parameters,
            words=aggregate.total,
            clients=len(aggregate.survivors),
            sent=current.sent,
        )
        self._end(current, masked=aggregate.survivors, silent=aggregate.silent, total=total)
        request = current.messages[0]
        metrics = MetricRecord({protocol.WEIGHT: total.weight})
        name = next(iter(request.content.array_records))
        average = total.average(current.sent)
        return Message(RecordDict({name: average, protocol.METRICS: metrics}), reply_to=request)

    def _aborted(self, current: _Round, error: AggregationError) -> Message:
        masked = tuple(sorted(set(map(self._client, current.messages)) - set(current.dropped)))
        problem = f"{error}\n{by_client({**current.dropped, **current.silent})}".rstrip()
        self._end(current, masked=masked, silent=(), total=None, problem=problem)
        return Message(Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=problem), reply_to=current.messages[0])

    def _end(
        self,
        current: _Round,
        *,
        masked: tuple[int, ...],
        silent: tuple[int, ...],
        total: Total | None,
        problem: str = "",
    ) -> None:
        self._round = None
        self.outcome = Outcome(
            parameters=current.parameters,
            masked=masked,
            dropped=dict(sorted(current.dropped.items())),
            silent=silent,
            total=total,
            problem=problem,
        )


def _work(messages: list[Message]) -> str:
    """Return the digest of what all members of a cohort are asked to do.

    Raises:
        AggregationError: they are asked to do different things.
    """
    digests = set(protocol.request_digests(messages))
    if len(digests) > 1:
        raise AggregationError("the clients of a cohort were to be asked for different work, and that is not summed")
    return digests.pop()
