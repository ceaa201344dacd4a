"""Stand-ins that implement production interfaces, for tests that need no processes."""

import copy
import itertools
from collections.abc import Callable, Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from clients.app import app
from fedtrain.config import Experiment, from_flat, to_flat

SERVER_NODE = 1
RUN_ID = 7


class InProcessGrid(Grid):
    """Answers each message by a call in this process, when it is asked for the reply.

    Args:
        answer: takes the message as its node receives it, and returns what the node replies with: a content, an error,
            a message of its own making, or ``None`` if it never answers.
        nodes: the ids of the connected nodes.
        arrange: puts the ids that were asked for in the order in which their replies come.
        a_pull: how many replies come in one pull.
    """

    def __init__(
        self,
        answer: Callable[[Message], RecordDict | Error | Message | None],
        nodes: Iterable[int],
        *,
        arrange: Callable[[list[str]], list[str]] = list,
        a_pull: int | None = None,
    ) -> None:
        self.nodes = list(nodes)
        self.sent: list[Message] = []
        self._answer, self._arrange, self._a_pull = answer, arrange, a_pull
        self._open: dict[str, Message] = {}
        self._ids = (f"message-{number}" for number in itertools.count())
        self._run = Run.create_empty(RUN_ID)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE, 1

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = next(self._ids)
            self.sent.append(message)
            ids.append(message.metadata.message_id)
            # What a node receives and what the server keeps are two things.
            self._open[ids[-1]] = copy.deepcopy(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked = [message_id for message_id in message_ids if message_id in self._open]
        replies = []
        for message_id in self._arrange(asked)[: self._a_pull]:
            answer = self._answer(self._open[message_id])
            if answer is not None:
                received = self._open.pop(message_id)
                replies.append(answer if isinstance(answer, Message) else Message(answer, reply_to=received))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


def digits_experiment(cache, **settings) -> Experiment:
    """Return a small experiment on the built-in digits; settings are by dotted key, with ``__`` for the dot."""
    values = {
        "federation.clients": 4,
        "federation.cohort": 2,
        "federation.rounds": 3,
        "data.cache": str(cache),
        "data.max_records": 400,
        "training.batch_size": 20,
        "training.local_steps": 2,
        "device": "cpu",
    }
    return from_flat(values | {key.replace("__", "."): value for key, value in settings.items()})


def private_experiment(cache, **settings) -> Experiment:
    """Return the same in record privacy."""
    private = {
        "privacy__mode": "record",
        "privacy__epsilon": 2.0,
        "privacy__sampling_rate": 0.2,
        "privacy__delta": 1e-3,
    }
    return digits_experiment(cache, **(private | settings))


NODES = {31: 1, 32: 3, 33: 0, 34: 2}


def federation(experiment, before=lambda message: None) -> InProcessGrid:
    """Return a grid whose nodes run our ClientApp in this process; ``before`` is called with each training message."""
    states = {node: RecordDict() for node in NODES}

    def answer(message):
        node = message.metadata.dst_node_id
        if message.metadata.message_type == "train":
            before(message)
        config = {"partition-id": NODES[node], "num-partitions": len(NODES)}
        return app(message, Context(RUN_ID, node, config, states[node], to_flat(experiment)))

    return InProcessGrid(answer, NODES)
