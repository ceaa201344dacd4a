"""Ask a cohort, and collect what comes of it: each reply, or one average, of which the server knows the sum alone.

Summing turns many messages into one reply, and is no stage of a grid: a collector sends through the grid, and the round
calls the collector.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedtrain.errors import AggregationError, TransportError
from fedtrain.flower.grids.base import by_client, collect, exchange
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.secagg import MaskQuery, MaskReply, SessionName, UnmaskQuery, UnmaskReply
from fedtrain.flower.messages.training import CohortRequest
from fedtrain.flower.sessions import ServerSession
from fedtrain.flower.summing import Summing
from fedtrain.flower.totals import Outcome, from_total
from fedtrain.secagg import Parameters, ServerRound

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What came of a round.

    Attributes:
        replies: for the strategy: one of each client, or one in the place of all.
        outcome: what became of the sum; ``None`` if nothing was summed.
    """

    replies: list[Message]
    outcome: Outcome | None = None


class Collector(Protocol):
    """Asks a cohort for its updates, and collects them."""

    def collect(self, asked: CohortRequest, *, on_reply: Callable[[int], None]) -> Collected:
        """Ask a cohort; ``on_reply`` is called with each node that has delivered its update, or failed to."""
        ...


class EachReply:
    """Collects the reply of each client of a cohort, in the order of the cohort."""

    def __init__(self, grid: Grid, *, deadline: float) -> None:
        """Collect over a grid, and wait for at most ``deadline`` seconds."""
        self._grid = grid
        self._deadline = deadline

    def collect(self, asked: CohortRequest, *, on_reply: Callable[[int], None]) -> Collected:
        """Ask a cohort, and return the replies that came in time."""

        def replied(reply: Message) -> None:
            on_reply(reply.metadata.src_node_id)

        replies = collect(self._grid, asked.messages, timeout=self._deadline, on_reply=replied)
        return Collected(replies=replies)


@dataclass(kw_only=True)
class _Tally:
    """Which clients of a cohort are lost, and why: before their updates were in the sum, and after."""

    parameters: Parameters
    clients: tuple[int, ...]
    dropped: dict[int, str] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)
    unmasking: bool = False


class SecureSum:
    """Collects one reply with the average of the updates of a cohort, of which the server knows the sum alone.

    It takes two exchanges, each of at most ``deadline`` seconds. The reply has the weight of all, or is an error if the
    round had to be aborted.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        clients: Mapping[int, int],
        session: ServerSession,
        summing: Summing,
        minimum: int = 0,
    ) -> None:
        """Sum over a grid.

        Args:
            grid: where the clients are.
            clients: the client of each node; all are parties of the session.
            session: the session.
            summing: how updates are summed.
            minimum: updates that a sum is of use with; a sum of fewer is not unmasked.
        """
        self._grid = grid
        self._clients = dict(clients)
        self._nodes = {client: node for node, client in clients.items()}
        self._session = session
        self._name = SessionName(run=session.run, session=session.session)
        self._summing = summing
        self._minimum = minimum
        self._number = 0

    def collect(self, asked: CohortRequest, *, on_reply: Callable[[int], None]) -> Collected:
        """Ask a cohort for masked updates, unmask their sum, and return the average.

        Raises:
            AggregationError: the clients of the cohort are asked for different work.
            ConfigError: no parameters are safe for the cohort.
            TransportError: the settings of the round have no clipping norm where it is adaptive.
        """
        self._number += 1
        summing = self._summing.in_round(asked.settings)
        clients = tuple(self._clients[message.metadata.dst_node_id] for message in asked.messages)
        parameters = summing.parameters(members=len(clients), sent=asked.arrays)
        machine = ServerRound(
            run=self._session.run,
            session=self._session.session,
            number=self._number,
            parameters=parameters,
            work=protocol.work_digest(asked.digest, config=self._session.config),
            announcements={client: self._session.announcements[client] for client in clients},
        )
        tally = _Tally(parameters=parameters, clients=clients)
        self._collect_masked(asked.messages, machine, tally, on_reply)
        try:
            self._collect_shares(machine, tally)
            return self._finished(asked, summing, machine, tally)
        except AggregationError as error:
            return self._aborted(asked, tally, error)

    def _collect_masked(
        self, messages: tuple[Message, ...], machine: ServerRound, tally: _Tally, on_reply: Callable[[int], None]
    ) -> None:
        """Ask all for their masked updates: the first exchange."""
        request = MaskQuery(session=self._name, request=machine.request).to_records()
        for message in messages:
            # Strategies put one content into all messages; it is not ours to change.
            message.content = RecordDict({**message.content, **request})
        waiting = dict(enumerate(tally.clients))
        for place, reply in exchange(self._grid, messages, timeout=self._summing.deadline):
            client = waiting.pop(place)
            if reply is not None:
                on_reply(self._nodes[client])
            if problem := _added(machine, client, reply):
                tally.dropped[client] = problem
            del reply  # as large as a model; it is in the sum, and the next one may take long
        for client in waiting.values():
            tally.dropped[client] = f"no masked update within {self._summing.deadline:g} seconds"

    def _collect_shares(self, machine: ServerRound, tally: _Tally) -> None:
        """Ask those whose updates came to help to unmask the sum: the second exchange.

        Raises:
            AggregationError: too few are left.
        """
        delivered = len(tally.clients) - len(tally.dropped)
        if delivered < self._minimum:
            raise AggregationError(f"{delivered} masked updates came, and a round needs {self._minimum} results")
        requests = machine.close()
        tally.unmasking = True
        deadline = self._summing.deadline
        messages = [
            Message(
                UnmaskQuery(session=self._name, request=request).to_records(),
                self._nodes[client],
                MessageType.QUERY,
                ttl=deadline,
            )
            for client, request in requests.items()
        ]
        clients = list(requests)
        for place, reply in exchange(self._grid, messages, timeout=deadline):
            if reply is None:
                continue
            if reply.has_error():
                tally.silent[clients[place]] = reply.error.reason or "no reason given"
                continue
            try:
                machine.receive_shares(clients[place], UnmaskReply.from_records(reply.content).shares)
            except TransportError as error:  # as if it had not answered: others hold shares too
                tally.silent[clients[place]] = f"unusable shares: {error}"

    def _finished(self, asked: CohortRequest, summing: Summing, machine: ServerRound, tally: _Tally) -> Collected:
        """Return the average.

        Raises:
            AggregationError: the sum cannot be unmasked, or says what no sum of clients can.
        """
        aggregate = machine.finish()
        for holder, owner in aggregate.doubts:
            _log.warning(
                "round %d of secure aggregation: the share of client %d's secrets that client %d has is wrong, or "
                "could not be opened; either may be at fault",
                self._number,
                owner,
                holder,
            )
        total = from_total(
            summing.layout,
            tally.parameters,
            words=aggregate.total,
            clients=len(aggregate.survivors),
            sent=asked.arrays,
        )
        request = asked.messages[0]
        name = next(iter(request.content.array_records))
        metrics = MetricRecord({protocol.WEIGHT: total.weight})
        # What whole numbers stand for only their mechanism knows.
        arrays = asked.arrays if summing.layout.whole else total.average(asked.arrays)
        average = RecordDict({name: arrays, protocol.METRICS: metrics})
        outcome = Outcome(
            parameters=tally.parameters,
            masked=aggregate.survivors,
            dropped=dict(sorted(tally.dropped.items())),
            silent=aggregate.silent,
            total=total,
        )
        return Collected(replies=[Message(average, reply_to=request)], outcome=outcome)

    @staticmethod
    def _aborted(asked: CohortRequest, tally: _Tally, error: AggregationError) -> Collected:
        problem = f"{error}\n{by_client({**tally.dropped, **tally.silent})}".rstrip()
        outcome = Outcome(
            parameters=tally.parameters,
            masked=tuple(sorted(set(tally.clients) - set(tally.dropped))),
            dropped=dict(sorted(tally.dropped.items())),
            silent=(),
            total=None,
            problem=problem,
            unmasking=tally.unmasking,
        )
        failure = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=problem)
        return Collected(replies=[Message(failure, reply_to=asked.messages[0])], outcome=outcome)


def _added(machine: ServerRound, client: int, reply: Message | None) -> str:
    """Add the masked update in a reply to the sum, and return why it is not in it; nothing if it is."""
    if reply is None:
        return "the message could not be sent"
    if reply.has_error():
        return reply.error.reason or "no reason given"
    try:
        machine.receive(client, MaskReply.from_records(reply.content).masked)
    except TransportError as error:
        return f"unusable masked update: {error}"
    return ""
