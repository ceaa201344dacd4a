import time

from flwr.common.constant import ErrorCode

from fedtrain.flower.grids.base import collect

HANGS = """
def spin_for_ever():
    while True:
        {body}

@app.train()
def train(message, context):
    context.state["seen"] = MetricRecord({{"messages": 1}})
    if context.node_config["partition-id"] == 1:
        spin_for_ever()
    return Message(RecordDict(), reply_to=message)
"""


def test_a_client_that_hangs_is_stopped_and_the_reply_names_the_function(make_grid, messages):
    grid = make_grid(HANGS.format(body="pass"))
    grid.send_and_receive(messages([0]))
    start = time.monotonic()
    replies = grid.send_and_receive(messages(range(4)), timeout=3.0)
    assert time.monotonic() - start < 60
    assert [reply.has_error() for reply in replies] == [False, True, False, False]
    error = replies[1].error
    assert error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert error.reason.startswith("client did not answer within 3 s")
    assert "in spin_for_ever" in error.reason
    assert not any(reply.has_error() for reply in grid.send_and_receive(messages([0, 2, 3])))


def test_a_client_that_ignores_signals_is_stopped_all_the_same(make_grid, messages):
    app = HANGS.format(body="time.sleep(600)").replace(
        "spin_for_ever()\n    return", "signal.signal(signal.SIGUSR1, signal.SIG_IGN); spin_for_ever()\n    return"
    )
    grid = make_grid(app)
    grid.send_and_receive(messages([0]))
    replies = grid.send_and_receive(messages([1, 0]), timeout=3.0)
    assert [reply.has_error() for reply in replies] == [True, False]


def test_a_message_that_had_not_started_says_so(make_grid, messages):
    grid = make_grid(HANGS.format(body="time.sleep(600)"), workers=1)
    grid.send_and_receive(messages([0]))
    replies = grid.send_and_receive(messages([1, 2, 3]), timeout=3.0)
    assert "in spin_for_ever" in replies[0].error.reason
    for reply in replies[1:]:
        assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
        assert reply.error.reason == "client did not answer within 3 s: it had not started, all workers were busy"


def test_the_time_to_live_of_a_message_counts_without_a_timeout(make_grid, messages):
    grid = make_grid(HANGS.format(body="time.sleep(600)"))
    grid.send_and_receive(messages([0]))
    ids = grid.push_messages([*messages([1], ttl=3.0), *messages([2])])
    replies = []
    while len(replies) < 2:
        replies += grid.pull_messages(ids)
    by_id = {reply.metadata.reply_to_message_id: reply for reply in replies}
    assert by_id[ids[0]].error.reason.startswith("client did not answer within 3 s")
    assert by_id[ids[1]].has_content()


def test_whoever_waits_as_long_as_a_message_lives_gets_the_word_on_a_late_client(make_grid, messages, monkeypatch):
    grid = make_grid(HANGS.format(body="time.sleep(600)"))
    grid.send_and_receive(messages([0]))
    pool, wait = grid._driver._pool, grid._driver._pool.wait

    def slowly():
        events = wait()
        time.sleep(0.5)
        return events

    # As on a busy machine.
    monkeypatch.setattr(pool, "wait", slowly)
    done, late = collect(grid, messages([0, 1], ttl=3.0), timeout=3.0)
    assert done.has_content()
    assert late.error.reason.startswith("client did not answer within 3 s. It was stopped here:")


def test_a_message_that_has_expired_already_is_never_run(make_grid, messages):
    grid = make_grid(HANGS.format(body="pass"))
    sent = messages([0], ttl=5.0)
    sent[0].metadata.created_at -= 10
    (reply,) = grid.send_and_receive(sent)
    assert "had not started" in reply.error.reason


def test_a_reply_that_came_in_time_is_not_lost_while_the_caller_was_busy(make_grid, messages):
    grid = make_grid(HANGS.format(body="pass"))
    grid.send_and_receive(messages([0, 2]))
    ids = grid.push_messages(messages([0, 2], ttl=3.0))
    time.sleep(3.5)
    replies = grid.pull_messages(ids)
    assert [reply.has_error() for reply in replies] == [False, False]


def test_the_state_of_a_stopped_client_is_not_kept(make_grid, messages):
    app = """
    @app.train()
    def train(message, context):
        seen = "seen" in context.state
        context.state["seen"] = MetricRecord({"messages": 1})
        if message.metadata.group_id == "hang":
            time.sleep(600)
        return Message(RecordDict({"m": MetricRecord({"seen": int(seen)})}), reply_to=message)
    """
    grid = make_grid(app)
    grid.send_and_receive(messages([0]))
    (stopped,) = grid.send_and_receive(messages([1], group_id="hang"), timeout=3.0)
    (reply,) = grid.send_and_receive(messages([1]))
    assert stopped.has_error()
    assert reply.content["m"]["seen"] == 0


def test_the_next_message_of_a_stopped_client_is_run(make_grid, messages):
    grid = make_grid(
        HANGS.format(body="time.sleep(600)").replace(
            '["partition-id"] == 1', '["partition-id"] == 1 and message.metadata.group_id'
        )
    )
    grid.send_and_receive(messages([0]))
    ids = grid.push_messages([*messages([1], ttl=3.0, group_id="hang"), *messages([1])])
    replies = []
    while len(replies) < 2:
        replies += grid.pull_messages(ids)
    assert [reply.has_error() for reply in replies] == [True, False]
