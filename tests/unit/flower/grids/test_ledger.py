import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedtrain.crypto import Identity, commit
from fedtrain.errors import ForgeryError
from fedtrain.flower.grids.base import collect
from fedtrain.flower.grids.ledger import LedgerGrid
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.flower.messages.training import CohortRequest
from fedtrain.ledger import Ledger, LedgerCopyStore, SitePolicy
from fedtrain.privacy import SampledGaussian
from tests.fakes import InProcessGrid

EVENT = SampledGaussian(sampling_rate=0.5, noise_multiplier=2.0, steps=3)
NODES = {71: 0, 72: 1}
RUN, PLAN, NONCE = "this", "a" * 64, bytes(32)
POLICY = SitePolicy(epsilon=9.0, delta=1e-5)


class Client:
    """A client that keeps a ledger and shows what the server does not know of it."""

    def __init__(self, folder):
        self.identity = Identity.generate()
        self._dataset = self.identity.public.key_id
        self._folder = folder
        self.asked_from = []

    def ledger(self):
        return Ledger.open(self._folder, dataset=self._dataset, identity=self.identity)

    def answer(self, message, *, update=None, nonce=NONCE, run=RUN, plan=PLAN, settle=True, refusal=None):
        arrays, config = message.content[protocol.ARRAYS], message.content[protocol.CONFIG]
        known = message.content[protocol.LEDGER][protocol.KNOWN]
        self.asked_from.append(known)
        moved = ArrayRecord({name: Array(array.numpy() + np.float32(1)) for name, array in arrays.items()})
        statement = None
        with self.ledger() as ledger:
            if refusal is None:
                entry = ledger.reserve(
                    run=run,
                    round_number=config[protocol.ROUND],
                    plan=plan,
                    model=protocol.request_digest(arrays, config),
                    event=EVENT,
                    repeatable=True,
                    unit="record",
                    noise="seeded",
                )
                if settle:
                    ledger.settle(entry, update or commit(protocol.arrays_digest(moved), NONCE))
            else:
                statement = ledger.statement(
                    run=run, round_number=config[protocol.ROUND], policy=POLICY, refusal=refusal
                )
            entries = ledger.envelopes[known:]
            shown = ConsistencyProof(key=self.identity.public, entries=entries, statement=statement, nonce=nonce)
        content = RecordDict({protocol.LEDGER: shown.to_record()})
        if refusal is None:
            content[protocol.ARRAYS] = moved
            content[protocol.METRICS] = MetricRecord({protocol.WEIGHT: 1.0})
        return content


@pytest.fixture
def clients(tmp_path):
    return {node: Client(tmp_path / str(node)) for node in NODES}


@pytest.fixture
def copies(tmp_path, clients):
    return LedgerCopyStore(
        tmp_path / "copies", {NODES[node]: client.identity.public for node, client in clients.items()}
    )


@pytest.fixture
def make(copies):
    """Give a function that wraps a grid whose nodes answer with a function of node and message."""

    def make(answer, *, per_round=True, opened=True, refused=None):
        inner = InProcessGrid(lambda message: answer(message.metadata.dst_node_id, message), NODES)
        return LedgerGrid(
            inner,
            clients=NODES,
            copies=copies,
            refused={} if refused is None else refused,
            run=RUN,
            plan=PLAN,
            per_round=per_round,
            opened=opened,
        )

    return make


def send(grid, number=1):
    arrays = ArrayRecord({"w": Array(np.zeros(3, np.float32))})
    config = ConfigRecord({protocol.ROUND: number, protocol.LEARNING_RATE: 0.1})
    content = RecordDict({protocol.ARRAYS: arrays, protocol.CONFIG: config})
    messages = tuple(Message(content, node, "train") for node in NODES)
    grid.begin(CohortRequest(round_number=number, messages=messages, arrays=arrays, settings=config))
    return collect(grid, messages, timeout=5)


def test_a_reply_that_the_ledger_bears_out_passes_without_its_ledger_record(make, clients, copies):
    replies = send(make(lambda node, message: clients[node].answer(message)))
    assert [list(reply.content) for reply in replies] == [[protocol.ARRAYS, protocol.METRICS]] * 2
    assert [entry.status for entry in copies.entries(0)] == ["reserved", "settled"]


def test_each_client_is_told_what_is_known_of_its_own_ledger(make, clients):
    with clients[72].ledger() as ledger:
        ledger.reserve(
            run="old",
            round_number=1,
            plan=PLAN,
            model="e" * 64,
            event=EVENT,
            repeatable=True,
            unit="record",
            noise="seeded",
        )
    grid = make(lambda node, message: clients[node].answer(message))
    send(grid, 1)
    send(grid, 2)
    assert clients[71].asked_from == [0, 2]
    assert clients[72].asked_from == [0, 3]


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"update": "f" * 64}, "no entry for this update"),
        ({"nonce": b"another"}, "no entry for this update"),
        ({"run": "another"}, "no entry for this update"),
        ({"plan": "f" * 64}, "no entry for this update"),
        ({"settle": False}, "no entry for this update"),
    ],
)
def test_an_update_without_its_entry_is_an_error_and_its_charge_is_kept(make, clients, copies, lie, reason):
    replies = send(make(lambda node, message: clients[node].answer(message, **(lie if node == 71 else {}))))
    assert reason in replies[0].error.reason
    assert not replies[1].has_error()
    assert copies.length(0) > 0


def test_a_refusal_is_an_error_that_says_why_and_is_remembered(make, clients):
    refused = {}
    grid = make(
        lambda node, message: clients[node].answer(message, refusal="beyond the budget" if node == 71 else None),
        refused=refused,
    )
    replies = send(grid)
    assert replies[0].error.reason == "refused by the client: beyond the budget"
    assert refused == {0: "beyond the budget"}


def test_another_clients_ledger_is_refused(make, clients, copies):
    replies = send(make(lambda _, message: clients[72].answer(message)))
    assert "unusable ledger" in replies[0].error.reason
    assert copies.length(0) == 0


@pytest.mark.parametrize(
    "record",
    [
        None,
        ConfigRecord(),
        ConfigRecord({protocol.KEY: "AAAA", protocol.ENTRIES: [b"x"], protocol.STATEMENT: b"", protocol.NONCE: b""}),
        ConfigRecord({protocol.KEY: "no", protocol.ENTRIES: [b"x"], protocol.STATEMENT: b"", protocol.NONCE: b""}),
    ],
)
def test_a_reply_without_a_usable_ledger_record_is_an_error(make, clients, record):
    def answer(node, message):
        content = clients[node].answer(message)
        del content[protocol.LEDGER]
        return content if record is None else RecordDict({**content, protocol.LEDGER: record})

    replies = send(make(answer))
    assert all(reply.has_error() for reply in replies)
    assert all("ledger" in reply.error.reason for reply in replies)


def test_errors_of_clients_pass(make):
    replies = send(make(lambda _, __: Error(1, "broken")))
    assert [reply.error.reason for reply in replies] == ["broken"] * 2


def test_with_one_reservation_for_the_run_no_round_has_an_entry(make, clients, copies):
    def answer(node, message):
        content = clients[node].answer(message, run="another")
        shown = ConsistencyProof(key=clients[node].identity.public, entries=(), statement=None)
        return RecordDict({**content, protocol.LEDGER: shown.to_record()})

    replies = send(make(answer, per_round=False))
    assert not any(reply.has_error() for reply in replies)
    assert copies.length(0) == 0


def test_lines_that_are_not_lines_are_refused():
    key = Identity.generate().public.encode()
    record = ConfigRecord({protocol.KEY: key, protocol.ENTRIES: ["text"], protocol.STATEMENT: b"", protocol.NONCE: b""})
    with pytest.raises(ForgeryError, match="not lines of a ledger"):
        ConsistencyProof.from_record(record)
