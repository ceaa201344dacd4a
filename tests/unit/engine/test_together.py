import threading

import pytest
from flwr.supercore.task_identity import TaskIdentity

from fedtrain.engine.pool import _Worker
from fedtrain.engine.requests import Arena, Group, Region, Request, Tally, grouped
from fedtrain.engine.together import meet, together


def test_calls_take_turns_in_their_order_and_meet_in_the_callers_thread():
    told = []

    def do(works):
        told.append((works, threading.current_thread() is threading.main_thread()))
        return [work * 10 for work in works]

    def call(number):
        def run():
            told.append(f"{number} begins")
            first = meet(number, do)
            told.append(f"{number} goes on")
            second = meet(first + number, do)
            told.append(f"{number} ends")
            return second

        return run

    assert together([call(1), call(2), call(3)]) == [110, 220, 330]
    assert told == [
        *("1 begins", "2 begins", "3 begins", ([1, 2, 3], True)),
        *("1 goes on", "2 goes on", "3 goes on", ([11, 22, 33], True)),
        *("1 ends", "2 ends", "3 ends"),
    ]


def test_a_call_that_is_alone_does_its_part_by_itself():
    assert meet(2, lambda works: [len(works) + works[0]]) == 3
    with pytest.raises(KeyError, match="own"):
        meet(2, lambda works: [KeyError("own")])


def test_calls_that_end_or_fail_before_do_not_keep_the_others():
    def fails():
        raise KeyError("gone")

    met = []

    def do(works):
        met.append(works)
        return works

    calls = [lambda: meet(1, do), lambda: "no need", lambda: meet(3, do)]
    assert together(calls) == [1, "no need", 3]
    with pytest.raises(KeyError, match="gone"):
        together([lambda: meet(1, do), fails, lambda: meet(3, do)])
    assert met == [[1, 3], [1, 3]]


def test_what_is_raised_for_one_is_raised_in_its_call_and_what_fails_for_all_in_all():
    def caught(number, do):
        def call():
            try:
                return meet(number, do)
            except (KeyError, SystemExit) as error:
                return repr(error)

        return call

    def some(works):
        return [KeyError(work) if work == 2 else work for work in works]

    def fails(works):
        raise SystemExit(len(works))

    assert together([caught(number, some) for number in (1, 2, 3)]) == [1, "KeyError(2)", 3]
    assert together([caught(number, fails) for number in (1, 2, 3)]) == ["SystemExit(3)"] * 3


def test_each_call_has_the_node_of_its_own_when_it_goes_on():
    def call(node):
        def run():
            TaskIdentity.node_id = node
            meet(None, list)
            return TaskIdentity.node_id

        return run

    assert together([call(5), call(6)]) == [5, 6]


def request(node, kind="train"):
    class Metadata:
        dst_node_id, message_type = node, kind

    arena = Arena(number=0, directory=0, users=1, spares=None)
    region = Region(offset=0, length=0)
    return Request(metadata=Metadata(), arena=arena, region=region, buffers=(), limit=1.0, deadline=1.0, tally=Tally())


def nodes(groups):
    assert all(isinstance(group, Group) for group in groups)
    return [group.nodes for group in groups]


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(0, 4, []), (1, 4, [1]), (4, 4, [4]), (5, 4, [2, 3]), (10, 8, [5, 5]), (11, 4, [3, 4, 4]), (3, 1, [1, 1, 1])],
)
def test_groups_are_neighbours_and_of_nearly_equal_sizes(count, most, sizes):
    groups = grouped([request(node) for node in range(count)], most)
    assert [len(group.requests) for group in groups] == sizes
    assert [node for group in nodes(groups) for node in group] == list(range(count))


def test_only_what_trains_is_grouped_and_no_node_twice():
    asked = [request(0), request(1, "train.more"), request(1), request(2), request(3, "query"), request(4, "query")]
    assert nodes(grouped(asked, 8)) == [[0, 1], [1, 2], [3], [4]]


def test_what_was_taken_back_is_in_the_pipe_until_the_last_of_a_group_is_answered():
    """The worker reads its pipe between groups: until then no third group may come into it."""
    first, second, next_one = (request(node) for node in (0, 1, 2))
    worker = _Worker(process=None, stale=True, groups=[Group(requests=[first, second]), Group(requests=[next_one])])
    worker.drop(first)
    assert worker.stale
    worker.drop(second)
    assert not worker.stale
    assert worker.requests == [next_one]
