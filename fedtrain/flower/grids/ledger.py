"""Collect what clients' ledgers say about a round, and accept no update that a ledger does not hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedtrain.crypto import commit
from fedtrain.errors import ForgeryError
from fedtrain.flower.grids.base import GridWrapper
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.flower.messages.training import CohortRequest
from fedtrain.ledger import LedgerCopyStore


@dataclass(frozen=True, kw_only=True)
class _Request:
    message: Message
    client: int
    round_number: int
    model: str
    known: int


class LedgerGrid(GridWrapper):
    """Tells each client what is known of its ledger, and takes the ledger's new entries out of its reply.

    A reply passes if its client's signed ledger holds a settled entry with this run, this plan, this round, what was
    sent and what came back, the one by its digest and the other by a commitment that the reply opens. A client that
    refuses says so in a signed statement, and its reply becomes an error reply.

    In client privacy with Poisson cohorts (``per_round=False``) a ledger holds one reservation for the whole run, which
    was checked when the client joined: replies then carry no entries.

    Under secure aggregation (``opened=False``) the server does not see what the client commits to, and does not get the
    nonce that opens the commitment, which would let it confirm a guess: the entry's update is then taken as it is.

    Messages that are not for training pass as they are.
    """

    def __init__(
        self,
        inner: Grid,
        *,
        clients: Mapping[int, int],
        copies: LedgerCopyStore,
        refused: dict[int, str],
        run: str,
        plan: str,
        per_round: bool,
        opened: bool,
    ) -> None:
        """Wrap a grid.

        Args:
            inner: the grid inside.
            clients: the client of each node.
            copies: the server's copies of the clients' ledgers; entries are added to them.
            refused: why clients do not take part; those that refuse, or whose ledgers do not hold, are added.
            run: the id of the run.
            plan: digest of the privacy plan.
            per_round: whether each round has entries of its own.
            opened: whether replies hold the updates that the entries commit to.
        """
        super().__init__(inner)
        self._clients = dict(clients)
        self._copies = copies
        self._run = run
        self._plan = plan
        self._per_round = per_round
        self._opened = opened
        self._refused = refused
        self._asked: CohortRequest | None = None
        self._open: dict[str, _Request] = {}

    def begin(self, asked: CohortRequest) -> None:
        """Say what the next messages for training are about."""
        self._asked = asked

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, with what is known of each client's ledger."""
        messages = list(messages)
        if any(message.metadata.message_type != MessageType.TRAIN for message in messages):
            return self._inner.push_messages(messages)
        assert self._asked is not None
        requests = [self._request(message, self._asked) for message in messages]
        for request in requests:
            # Strategies put one content into all messages, and these differ.
            known = ConfigRecord({protocol.KNOWN: request.known})
            request.message.content = RecordDict({**request.message.content, protocol.LEDGER: known})
        ids = list(self._inner.push_messages([request.message for request in requests]))
        self._open = dict(zip(ids, requests, strict=False))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies so far; those that the ledgers do not bear out are error replies."""
        return [self._accepted(reply) for reply in self._inner.pull_messages(message_ids)]

    def _request(self, message: Message, asked: CohortRequest) -> _Request:
        client = self._clients[message.metadata.dst_node_id]
        return _Request(
            message=message,
            client=client,
            round_number=asked.round_number,
            model=asked.digest,
            known=self._copies.length(client),
        )

    def _accepted(self, reply: Message) -> Message:
        request = self._open.get(reply.metadata.reply_to_message_id)
        if request is None or reply.has_error():
            return reply
        try:
            problem = self._problem(reply.content, request)
        except ForgeryError as error:
            problem = self._refused[request.client] = f"unusable ledger: {error}"
        if problem:
            reason = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=problem)
            return Message(reason, reply_to=request.message)
        return Message(_without_ledger(reply.content), reply_to=request.message)

    def _problem(self, content: RecordDict, request: _Request) -> str | None:
        """Take the entries over, and say what they do not bear out."""
        record = content.config_records.get(protocol.LEDGER)
        if record is None:
            return "the reply has no ledger record"
        proof = ConsistencyProof.from_record(record)
        statement = self._copies.receive(request.client, proof.entries, proof.statement, first=request.known)
        if statement is not None and statement.refusal is not None:
            self._refused[request.client] = statement.refusal
            return f"refused by the client: {statement.refusal}"
        if not self._per_round:
            return None
        subject = (self._run, request.round_number, self._plan, request.model)
        update = self._update(content, proof.nonce) if self._opened else None
        for entry in reversed(self._copies.entries(request.client)):
            same = (entry.run, entry.round, entry.plan, entry.model) == subject
            if same and entry.status == "settled" and update in {None, entry.update}:
                return None
        return "the client's ledger has no entry for this update"

    @staticmethod
    def _update(content: RecordDict, nonce: bytes) -> str:
        """Return the commitment to the update of a reply, empty if it does not hold exactly one."""
        arrays = list(content.array_records.values())
        return commit(protocol.arrays_digest(arrays[0]), nonce) if len(arrays) == 1 else ""


def _without_ledger(content: RecordDict) -> RecordDict:
    return RecordDict({name: record for name, record in content.items() if name != protocol.LEDGER})
