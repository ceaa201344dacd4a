from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedtrain.crypto import Identity, SealingKey
from fedtrain.flower.grids.base import collect
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.training import CohortRequest
from fedtrain.flower.mods.endpoint import Endpoint
from fedtrain.flower.mods.sealed import sealed_mod
from fedtrain.flower.mods.secagg import secagg_mod
from fedtrain.flower.mods.session import session_mod
from fedtrain.flower.sessions import open_session
from fedtrain.flower.summing import Layout, Summing
from fedtrain.messaging import SessionOffer
from fedtrain.trust import Roster
from tests.fakes import RUN_ID, InProcessGrid

RUN, SESSION, CONFIG = "a1", "b2", "c" * 64


def summing(**changes):
    facts = {
        "bits": 16,
        "bound": 1.0,
        "threshold": None,
        "neighbours": None,
        "layout": Layout(),
        "seed": 5,
        "deadline": 5.0,
        "adaptive": False,
    }
    return Summing(**(facts | changes))


def default_training(client, content):
    """Move every array by a step that depends on the client."""
    trained = {
        name: Array(np.asarray(value.numpy() + value.numpy().dtype.type(0.01 * (client + 1))))
        for name, value in content[protocol.ARRAYS].items()
    }
    metrics = MetricRecord({protocol.WEIGHT: float(client + 1)})
    return RecordDict({protocol.ARRAYS: ArrayRecord(trained), protocol.METRICS: metrics})


@dataclass
class World:
    """A server and clients with real keys and files; nodes answer in this process, through the real mods."""

    folder: object
    size: int = 3
    sealed: bool = False
    secagg: bool = False
    minimum: int = 2
    config: str = CONFIG
    summing: Summing = None
    train: object = default_training
    tamper: object = staticmethod(lambda message: message)
    seen: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.nodes = {100 + client: client for client in range(self.size)}
        self.server = Identity.generate()
        self.parties = {client: self.endpoint(client) for client in range(self.size)}
        self.roster = Roster(
            server=self.server.public, clients={client: self.parties[client].identity.public for client in self.parties}
        )
        self.apps = {client: self.app(client) for client in range(self.size)}
        self.grid = InProcessGrid(self.answer, self.nodes)

    def endpoint(self, client, **changes):
        facts = {
            "client": client,
            "folder": self.folder / f"client-{client}",
            "config": self.config,
            "sealed": self.sealed,
            "secagg": self.secagg,
            "minimum": self.minimum,
            "summing": self.summing or summing(),
        }
        return Endpoint(**(facts | changes))

    def app(self, client):
        app = ClientApp(mods=[mod(lambda _: self.parties[client]) for mod in (sealed_mod, session_mod, secagg_mod)])

        @app.train()
        def train(message, context):
            self.asked.append(message.content)
            return Message(self.train(client, message.content), reply_to=message)

        @app.query()
        def query(message, context):
            return Message(RecordDict({"answer": ConfigRecord({"client": client})}), reply_to=message)

        return app

    def answer(self, message):
        self.seen.append(deepcopy(message))  # as it came: what answers it may take it apart
        client = self.nodes[message.metadata.dst_node_id]
        message = self.tamper(message)
        if message is None:
            return None
        reply = self.apps[client](message, Context(RUN_ID, 100 + client, {}, RecordDict(), {}))
        self.seen.append(reply)
        return reply

    def session(self, *, session=SESSION, start=1, nodes=None, timeout=5.0):
        return open_session(
            self.grid,
            self.nodes if nodes is None else nodes,
            offer=SessionOffer(run=RUN, session=session, roster=self.roster.digest, start=start),
            config=CONFIG,
            identity=self.server,
            key=SealingKey(bytes(range(32))),
            roster=self.roster,
            timeout=timeout,
        )


@pytest.fixture
def make_world(tmp_path):
    return lambda **facts: World(folder=tmp_path, **facts)


def model(scale=1.0):
    generator = np.random.default_rng(3)
    return ArrayRecord(
        {
            "weight": Array(np.asarray(scale * generator.normal(size=(7, 5)), dtype=np.float32)),
            "bias": Array(np.asarray(scale * generator.normal(size=5), dtype=np.float64)),
            "batches": Array(np.asarray(4)),
        }
    )


def training(world, *, number=1, arrays=None, nodes=None, **settings):
    """Return the messages of a round, which share their records as a strategy's do."""
    config = ConfigRecord({protocol.ROUND: number, **settings})
    content = RecordDict({protocol.ARRAYS: arrays or model(), protocol.CONFIG: config})
    return [Message(content, node, "train") for node in nodes or world.nodes]


def cohort_request(messages, *, number=1):
    """Return the request that some messages are, as a round makes it."""
    content = messages[0].content
    return CohortRequest(
        round_number=number,
        messages=tuple(messages),
        arrays=content[protocol.ARRAYS],
        settings=content[protocol.CONFIG],
    )


def go(grid, messages, *, timeout=20.0):
    return collect(grid, messages, timeout=timeout)


def reasons(replies):
    return [reply.error.reason if reply.has_error() else None for reply in replies]
