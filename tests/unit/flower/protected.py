"""Flower apps under a protection, in this process: their server, their clients and all that passes between."""

from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedtrain.flower import ClientPrivacy, Protection, SecAgg, protect_client, protect_grid
from tests.fakes import RUN_ID, InProcessGrid

SIZE = 3
PRIVACY = ClientPrivacy(epsilon=8.0, delta=1e-2, clip_norm=0.5, cohort=SIZE, rounds=2)
SEALED = Protection(clients=SIZE)
SUMMED = Protection(clients=SIZE, secagg=SecAgg())
PRIVATE = Protection(clients=SIZE, secagg=SecAgg(), client_privacy=PRIVACY)
CENTRAL = Protection(clients=SIZE, client_privacy=PRIVACY)
OPEN = Protection(clients=SIZE, sealed=False, client_privacy=PRIVACY)
MARK = 0.123456
ABORTED = "the round was aborted; see the server's log"


def model():
    generator = np.random.default_rng(3)
    return ArrayRecord(
        {
            "weight": Array(generator.normal(size=(7, 5)).astype(np.float32)),
            "bias": Array(generator.normal(size=5)),
            "batches": Array(np.asarray(4)),
        }
    )


def train(client, content):
    """Move every floating array in place, as apps do, and say things that are nobody's business."""
    arrays = content["arrays"]
    for name in ("weight", "bias"):
        before = arrays[name].numpy()
        arrays[name] = Array(np.asarray(before + before.dtype.type(0.01 * (client + 1))))
    metrics = MetricRecord({"num-examples": client + 1, "train_loss": MARK})
    return RecordDict({"arrays": arrays, "metrics": metrics, "notes": ConfigRecord({"secret": "mine"})})


@dataclass
class World:
    """Nodes that answer in this process, through the real mods."""

    folder: object
    protection: Protection
    size: int = SIZE
    train: object = staticmethod(train)
    tamper: object = staticmethod(lambda message: message)
    theirs: Protection = None
    pinned: bool = False
    numbers: object = staticmethod(lambda node: node - 100)
    seen: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.app = protect_client(
            ClientApp(), self.theirs or self.protection, folder=self.folder / "clients", pinned=self.pinned
        )
        self.grid = InProcessGrid(self.answer, [100 + client for client in range(self.size)])

        @self.app.train()
        def _(message, context):
            self.asked.append(message.content)
            return Message(self.train(context.node_config["partition-id"], message.content), reply_to=message)

        @self.app.evaluate()
        def _(message, context):
            return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "accuracy": MARK})}), reply_to=message)

        @self.app.query()
        def _(message, context):
            return Message(RecordDict({"answer": ConfigRecord({"mark": MARK})}), reply_to=message)

    def answer(self, message):
        message = self.tamper(message)
        if not isinstance(message, Message):
            return message
        self.seen.append(message)
        context = Context(
            RUN_ID,
            message.metadata.dst_node_id,
            {"partition-id": self.numbers(message.metadata.dst_node_id)},
            RecordDict(),
            {},
        )
        try:
            reply = self.app(message, context)
        except Exception as error:  # noqa: BLE001 - what a runtime does
            return Error(code=5, reason=f"{type(error).__name__}: {error}")
        self.seen.append(reply)
        return reply

    def protect(self, **changes):
        return protect_grid(self.grid, self.protection, folder=self.folder / "server", **({"patience": 2.0} | changes))


class Curious(FedAvg):
    """A strategy that keeps all that it is given."""

    def __init__(self, **arguments):
        super().__init__(**({"fraction_evaluate": 0.0} | arguments))
        self.given = []

    def aggregate_train(self, server_round, replies):
        self.given.append(list(replies))
        return super().aggregate_train(server_round, self.given[-1])


def start(world, strategy=None, rounds=1):
    strategy = strategy or Curious()
    with world.protect(strategy=strategy) as grid:
        return strategy.start(grid=grid, initial_arrays=model(), num_rounds=rounds), grid


def plainly(weights):
    moves = np.asarray([0.01 * (client + 1) for client in range(len(weights))])
    return np.average(moves, weights=weights)


def wire(world):
    """Return the bytes of all messages, as far as anything of an app is in them."""
    return b"".join(
        repr([record for record in message.content.values() if not isinstance(record, ArrayRecord)]).encode()
        + b"".join(array.data for record in message.content.array_records.values() for array in record.values())
        for message in world.seen
        if message.has_content()
    )


def needles(arrays):
    return [array.numpy().tobytes()[start : start + 16] for array in arrays.values() for start in (0, 16)][:4]


class GridOf:
    """What a server sends that does not keep to its own grid's rules: sealed, and to whom it likes."""

    def __init__(self, protected):
        self._inner = protected._inner

    def ask(self, *messages):
        return self._inner.pull_messages(list(self._inner.push_messages(messages)))


def request(node=100, kind="train", **records):
    content = {"arrays": model(), "config": ConfigRecord({"server-round": 1})} | records
    return Message(RecordDict(content), node, kind)
