"""Messages that a worker gets at once."""

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from fedtrain.errors import UsageError

# Says who was met, in which process, and has a state.
MEETS = """
from fedtrain.engine.together import meet

def all_of_us(works):
    return [f"{{work}} of {{works}}" for work in works]

@app.train()
def train(message, context):
    me = context.node_config["partition-id"]
    {before}
    said = meet(me, all_of_us)
    {after}
    context.state["times"] = MetricRecord({{"n": 1 + context.state.get("times", {{"n": 0}})["n"]}})
    answer = ConfigRecord({{"said": said, "process": os.getpid(), "times": context.state["times"]["n"]}})
    return Message(RecordDict({{"answer": answer}}), reply_to=message)

@app.query()
def query(message, context):
    return train_alone(message, context)

def train_alone(message, context):
    said = meet(context.node_config["partition-id"], all_of_us)
    return Message(RecordDict({{"answer": ConfigRecord({{"said": said}})}}), reply_to=message)
"""


def app(before="pass", after="pass"):
    return MEETS.format(before=before, after=after)


def said(replies):
    return [None if reply.has_error() else reply.content["answer"]["said"] for reply in replies]


EVERYBODY = [f"{node} of {group}" for group in ([0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]) for node in group]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_groups_depend_on_the_order_of_the_messages_alone(make_grid, messages, workers):
    grid = make_grid(app(), nodes=12, workers=workers, together=4)
    for times in (1, 2):
        replies = grid.send_and_receive(messages(range(11)))
        assert said(replies) == EVERYBODY
        answers = [reply.content["answer"] for reply in replies]
        assert [answer["times"] for answer in answers] == [times] * 11
        assert [reply.metadata.src_node_id for reply in replies] == list(range(1000, 1011))
        for group in (answers[:3], answers[3:7], answers[7:]):
            assert len({answer["process"] for answer in group}) == 1


def test_who_is_alone_meets_nobody(make_grid, messages):
    grid = make_grid(app(), nodes=4, together=4)
    assert said(grid.send_and_receive(messages([2]))) == ["2 of [2]"]
    queries = [Message(RecordDict(), 1000 + node, "query") for node in range(3)]
    assert said(grid.send_and_receive(queries)) == ["0 of [0]", "1 of [1]", "2 of [2]"]
    ungrouped = make_grid(app(), nodes=4)
    assert said(ungrouped.send_and_receive(messages(range(3)))) == ["0 of [0]", "1 of [1]", "2 of [2]"]


@pytest.mark.parametrize("action", ["raise RuntimeError('planted')", "sys.exit(3)", "return None"])
@pytest.mark.parametrize(("when", "met"), [("before", [0, 2, 3]), ("after", [0, 1, 2, 3])])
def test_a_client_that_fails_takes_nobody_with_it(make_grid, messages, action, when, met):
    grid = make_grid(app(**{when: f"if me == 1: {action}"}), nodes=4, together=4)
    for times in (1, 2):
        replies = grid.send_and_receive(messages(range(4)))
        assert said(replies) == [f"0 of {met}", None, f"2 of {met}", f"3 of {met}"]
        assert replies[1].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert [reply.content["answer"]["times"] for reply in replies if reply.has_content()] == [times] * 3


def test_a_process_that_crashes_takes_its_group_alone(make_grid, messages):
    grid = make_grid(app(before="if me == 1: os._exit(7)"), nodes=8, together=4)
    for times in (1, 2):
        replies = grid.send_and_receive(messages(range(8)))
        assert said(replies) == [None] * 4 + [f"{node} of [4, 5, 6, 7]" for node in range(4, 8)]
        assert {reply.error.code for reply in replies[:4]} == {ErrorCode.CLIENT_APP_CRASHED}
        assert [reply.content["answer"]["times"] for reply in replies[4:]] == [times] * 4


def test_a_group_that_hangs_is_late_as_a_whole_and_the_next_one_runs(make_grid, messages):
    grid = make_grid(app(after="if me == 1: time.sleep(600)"), nodes=8, workers=2, together=4)
    replies = grid.send_and_receive(messages(range(8)), timeout=3.0)
    assert said(replies) == [None] * 4 + [f"{node} of [4, 5, 6, 7]" for node in range(4, 8)]
    assert all("did not answer within 3 s" in reply.error.reason for reply in replies[:4])
    assert said(grid.send_and_receive(messages([0, 2, 3]))) == ["0 of [0, 2, 3]", "2 of [0, 2, 3]", "3 of [0, 2, 3]"]


def test_messages_of_one_node_run_one_after_another_in_whatever_groups(make_grid, messages):
    grid = make_grid(app(), nodes=8, workers=3, together=4)
    groups = [[0, 1, 2], [2, 3], [0, 3, 4], [1, 2, 5]] * 5
    wanted = [each for nodes in groups for each in grid.push_messages(messages(nodes))]
    replies = []
    while len(replies) < len(wanted):
        replies += grid.pull_messages(wanted)
    times = {node: [] for node in range(6)}
    for reply in replies:
        times[reply.metadata.src_node_id - 1000].append(reply.content["answer"]["times"])
    # Each found the state that the one before it had left.
    asked = [node for nodes in groups for node in nodes]
    assert {node: sorted(each) for node, each in times.items()} == {
        node: list(range(1, asked.count(node) + 1)) for node in range(6)
    }


def test_many_messages_at_once_fit_into_the_pipe(make_grid, messages):
    grid = make_grid(app(), nodes=256, workers=2, together=64)
    replies = grid.send_and_receive(messages(range(256)))
    assert said(replies)[130] == f"130 of {list(range(128, 192))}"


def test_more_than_fits_into_the_pipe_is_refused(make_grid):
    with pytest.raises(UsageError, match="together must be at most 64, not 65"):
        make_grid(app(), together=65)
