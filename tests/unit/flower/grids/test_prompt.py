import threading
import time
from collections import Counter

import pytest
from flwr.app import Message, RecordDict

from fedtrain.flower.grids.base import GridWrapper, collect
from fedtrain.flower.grids.prompt import PromptGrid, pause_before_asking
from tests.fakes import InProcessGrid

NODES = [11, 12, 13]


class Stalling(GridWrapper):
    """Fetches replies one after the other, as Flower does, and waits where a node has sent a part of its reply."""

    def __init__(self, *, partial=(), silent=()):
        super().__init__(InProcessGrid(lambda _: RecordDict(), NODES))
        self.partial, self.silent = set(partial), set(silent)
        self.complete = threading.Event()
        self.lock = threading.Lock()
        self.nodes, self.asked, self.at_once = {}, Counter(), Counter()
        self.error = None

    def push_messages(self, messages):
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self.nodes |= {
            message_id: message.metadata.dst_node_id for message_id, message in zip(ids, messages, strict=True)
        }
        return ids

    def pull_messages(self, message_ids):
        found = []
        for message_id in message_ids:
            node = self.nodes[message_id]
            self.asked[node] += 1
            self.at_once[message_id] += 1
            assert self.at_once[message_id] == 1, "a reply is fetched twice at once"
            if self.error:
                raise self.error
            if node in self.partial:
                assert self.complete.wait(60)
            if node not in self.silent:
                with self.lock:
                    found += super().pull_messages([message_id])
            self.at_once[message_id] -= 1
        return found


@pytest.fixture
def stalling():
    grid = Stalling(partial=[11])
    yield grid
    grid.complete.set()


def questions():
    return [Message(RecordDict(), node, "query") for node in NODES]


def senders(replies):
    return [reply.metadata.src_node_id for reply in replies]


def test_a_reply_that_is_sent_in_part_holds_no_other_back(stalling):
    assert senders(collect(PromptGrid(stalling), questions(), timeout=3.0)) == [12, 13]


def test_flowers_way_would_hold_the_others_back(stalling):
    """The case above is one: behind a grid that asks as Flower's does, they are too late."""
    thread = threading.Thread(target=lambda: late.extend(collect(stalling, questions(), timeout=0.2)))
    late = []
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    assert late == []
    stalling.complete.set()
    thread.join(20)
    assert senders(late) == NODES


def test_it_is_taken_when_the_rest_of_it_came(stalling):
    threading.Timer(0.5, stalling.complete.set).start()
    assert senders(collect(PromptGrid(stalling), questions(), timeout=20.0)) == NODES


def test_one_that_nobody_waits_for_any_more_is_not_given_to_who_asks_for_others(stalling):
    grid = PromptGrid(stalling)
    collect(grid, questions(), timeout=1.0)
    stalling.partial.clear()
    ids = set(grid.push_messages(questions()))
    stalling.complete.set()
    answered = []
    while set(answered) != ids:
        answered += [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids - set(answered))]
    assert len(answered) == len(ids)


def test_a_reply_that_is_not_there_is_asked_for_with_a_pause():
    stalling = Stalling(silent=NODES)
    grid = PromptGrid(stalling)
    ids = list(grid.push_messages(questions()))
    started = time.monotonic()
    pulls = 0
    while pulls < 5 or min(stalling.asked[node] for node in NODES) < 2:
        assert grid.pull_messages(ids) == []
        pulls += 1
    seconds = time.monotonic() - started
    assert seconds >= 0.45
    # However slow this machine is: at most once at the beginning, and once in each tenth of a second.
    assert all(2 <= asked <= 1 + seconds / 0.1 for asked in stalling.asked.values())


def test_what_takes_long_is_asked_for_less_often_and_found_in_time():
    questions, waited = 0, 0.0
    while waited < 600.0:
        pause = pause_before_asking(waited, replies=10)
        assert pause <= min(max(0.2, 0.05 * waited), 1.0)
        questions, waited = questions + 1, waited + pause
    # Six thousand, were each asked for every tenth of a second.
    assert questions < 800


def test_many_together_are_asked_for_at_a_bounded_rate():
    assert all(pause_before_asking(waited, replies=1000) >= 20.0 for waited in (0.0, 5.0, 500.0))


def test_an_error_reaches_who_asks():
    stalling = Stalling()
    stalling.error = RuntimeError("the run was stopped")
    grid = PromptGrid(stalling)
    with pytest.raises(RuntimeError, match="the run was stopped"):
        collect(grid, questions(), timeout=20.0)


def test_nothing_to_wait_for_is_nothing_to_ask():
    stalling = Stalling()
    assert PromptGrid(stalling).pull_messages([]) == []
    assert not stalling.asked
