import gc
import random
import time
import weakref

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.run import Run

from fedtrain.engine import LocalGrid
from fedtrain.flower.grids.base import EXPIRED, GridWrapper, by_client, cause, collect, exchange, let_rest
from tests.fakes import RUN_ID, InProcessGrid
from tests.processes import runs, until

NODES = [11, 12, 13, 14, 15]
TRACEBACK = (
    'Traceback (most recent call last):\n  File "x.py", line 1, in f\nfedtrain.errors.SiteError: no site\nand no more'
)


def echo(message):
    return RecordDict({"said": ConfigRecord({"node": message.metadata.dst_node_id})})


def questions(nodes=NODES):
    return [Message(RecordDict(), node, "query") for node in nodes]


def senders(replies):
    return [reply.metadata.src_node_id for reply in replies]


@pytest.mark.parametrize("a_pull", [None, 1, 2])
def test_replies_come_in_the_order_of_the_messages_whoever_answers_first(a_pull):
    shuffled = random.Random(3)
    grid = InProcessGrid(echo, NODES, arrange=lambda ids: shuffled.sample(ids, len(ids)), a_pull=a_pull)
    asked = questions([15, 11, 14, 12, 13])
    seen = []
    replies = collect(grid, asked, on_reply=seen.append)
    assert senders(replies) == [15, 11, 14, 12, 13]
    assert [reply.content["said"]["node"] for reply in replies] == [15, 11, 14, 12, 13]
    assert sorted(senders(seen)) == NODES
    assert senders(seen) != senders(replies)


def test_what_is_missing_at_the_deadline_is_left_out():
    grid = InProcessGrid(lambda message: None if message.metadata.dst_node_id == 12 else echo(message), NODES)
    asked = questions()
    started = time.monotonic()
    replies = collect(grid, asked, timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 20
    assert senders(replies) == [11, 13, 14, 15]


def test_what_is_there_when_the_time_is_over_counts():
    assert senders(collect(InProcessGrid(echo, NODES), questions(), timeout=0.0)) == NODES


def test_a_client_that_takes_several_pulls_is_waited_for():
    calls = []
    grid = InProcessGrid(lambda message: calls.append(1) or (echo(message) if len(calls) >= 3 else None), [11])
    started = time.monotonic()
    assert senders(collect(grid, questions([11]))) == [11]
    # It polled with a pause, and did not spin.
    assert len(calls) == 3
    assert time.monotonic() - started >= 0.09


def test_nothing_to_send_is_nothing_to_wait_for():
    assert collect(InProcessGrid(echo, NODES), []) == []


def test_messages_that_the_grid_could_not_send_are_not_waited_for():
    class Full(InProcessGrid):
        def push_messages(self, messages):
            first, *_ = super().push_messages(messages)
            return [first, None, None]

    grid = Full(echo, NODES)
    assert senders(collect(grid, questions([11, 12, 13]), timeout=30)) == [11]


@pytest.mark.parametrize("said", EXPIRED)
def test_what_a_superlink_says_of_a_message_that_expired_is_no_answer(said):
    def late(message):
        return Error(code=3, reason=f"{said} - it has expired") if message.metadata.dst_node_id == 12 else echo(message)

    seen = []
    replies = collect(InProcessGrid(late, NODES), questions(), timeout=60.0, on_reply=seen.append)
    assert senders(replies) == [11, 13, 14, 15]
    assert 12 not in senders(seen)


def test_errors_are_replies():
    grid = InProcessGrid(lambda _: Error(3, "broken"), NODES)
    assert [reply.error.reason for reply in collect(grid, questions())] == ["broken"] * 5


def test_a_wrapper_hands_everything_to_the_grid_inside():
    inner = InProcessGrid(echo, NODES)
    grid = GridWrapper(inner)
    grid.set_run(Run.create_empty(99))
    assert grid.run is inner.run
    assert grid.run.run_id == 99 != RUN_ID
    assert list(grid.get_node_ids()) == NODES
    assert [node.node_id for node in grid.get_nodes()] == NODES
    message = grid.create_message(RecordDict(), "query", 12, "group", 5.0)
    assert (message.metadata.dst_node_id, message.metadata.group_id, message.metadata.ttl) == (12, "group", 5.0)
    (message_id,) = grid.push_messages([message])
    assert inner.sent == [message]
    assert senders(grid.pull_messages([message_id])) == [12]


def test_send_and_receive_goes_through_the_subclass():
    class Tracing(GridWrapper):
        calls = ()

        def push_messages(self, messages):
            self.calls += ("push",)
            return super().push_messages(messages)

        def pull_messages(self, message_ids):
            self.calls += ("pull",)
            return super().pull_messages(message_ids)

    grid = Tracing(InProcessGrid(echo, NODES))
    asked = questions()
    assert senders(grid.send_and_receive(asked, timeout=5)) == NODES
    assert grid.calls == ("push", "pull")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (TRACEBACK, "no site\nand no more"),
        ("gone", "gone"),
        ("", "no reason given"),
        ("\n \t\n", "no reason given"),
    ],
)
def test_a_reason_comes_down_to_what_the_exception_says(reason, said):
    assert cause(reason) == said


def test_a_long_reason_is_cut_and_keeps_its_beginning():
    text = cause("ValueError: begin" + "x" * 5000)
    assert text.startswith("beginxxx")
    assert text.endswith("...")
    assert len(text) < 700


def test_each_client_has_its_own_line_in_order():
    assert by_client({3: "\n", 1: TRACEBACK.replace("\nand no more", "")}) == (
        "client 1: no site\nclient 3: no reason given"
    )


PIDS = """
import os
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    return Message(RecordDict({"pid": MetricRecord({"pid": os.getpid()})}), reply_to=message)
"""


def test_workers_rest_through_all_that_is_around_a_grid_and_other_grids_go_on(tmp_path):
    (tmp_path / "client.py").write_text(PIDS)
    settings = {"client_app": "client:app", "app_dir": tmp_path, "run_config": {}, "nodes": 2, "preload": ()}
    with LocalGrid(**settings, workers=1) as local:
        grid = GridWrapper(GridWrapper(local))
        (reply,) = collect(grid, questions([1000]))
        let_rest(grid)
        until(lambda: not runs(reply.content["pid"]["pid"]))
    other = GridWrapper(InProcessGrid(echo, NODES))
    let_rest(other)
    assert senders(collect(other, questions())) == NODES


@pytest.mark.parametrize("a_pull", [1, 2])
def test_nobody_keeps_a_reply_while_the_next_is_waited_for(a_pull):
    """A reply can be as large as a model."""
    kept = []

    class Watching(InProcessGrid):
        def pull_messages(self, message_ids):
            assert [reference() for reference in kept] == [None] * len(kept)
            return super().pull_messages(message_ids)

    gc.collect()
    gc.disable()
    try:
        for _, reply in exchange(Watching(echo, NODES, a_pull=a_pull), questions()):
            kept.append(weakref.ref(reply))
            del reply
    finally:
        gc.enable()
    assert len(kept) == len(NODES)
