import os
import random
import signal
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run

from fedtrain.errors import UsageError
from tests.processes import runs, until

ECHO = """
@app.train()
def train(message, context):
    values = {
        "partition": context.node_config["partition-id"],
        "partitions": context.node_config["num-partitions"],
        "node": context.node_id,
        "pid": os.getpid(),
    }
    config = ConfigRecord({"rate": context.run_config.get("rate", 0.0), "threads": os.environ["OMP_NUM_THREADS"]})
    return Message(RecordDict({"values": MetricRecord(values), "config": config}), reply_to=message)
"""

COUNT = """
@app.train()
def train(message, context):
    if "gate" in context.run_config:
        open(context.run_config["began"], "w").close()
        while not os.path.exists(context.run_config["gate"]):
            time.sleep(0.01)
    before = context.state["count"]["value"] if "count" in context.state else 0
    context.state["count"] = MetricRecord({"value": before + 1})
    values = {"pid": os.getpid(), "count": before + 1}
    return Message(RecordDict({"values": MetricRecord(values)}), reply_to=message)
"""

SLOW_FIRST = """
@app.train()
def train(message, context):
    time.sleep(0.3 if context.node_config["partition-id"] == 0 else 0)
    return Message(RecordDict(), reply_to=message)
"""


HELD_FIRST = """
@app.train()
def train(message, context):
    while context.node_config["partition-id"] == 0 and not os.path.exists(os.environ["RELEASED"]):
        time.sleep(0.01)
    return Message(RecordDict(), reply_to=message)
"""


@pytest.fixture
def released(tmp_path, monkeypatch):
    """The file that ends the wait of HELD_FIRST."""
    monkeypatch.setenv("RELEASED", str(tmp_path / "released"))
    return tmp_path / "released"


def test_every_node_sees_its_own_context(make_grid, messages):
    grid = make_grid(ECHO, run_config={"rate": 0.5}, nodes=4)
    assert list(grid.get_node_ids()) == [1000, 1001, 1002, 1003]
    assert [info.node_id for info in grid.get_nodes()] == [1000, 1001, 1002, 1003]
    replies = grid.send_and_receive(messages([3, 1]))
    values = [dict(reply.content["values"]) for reply in replies]
    assert [(v["partition"], v["partitions"], v["node"]) for v in values] == [(3, 4, 1003), (1, 4, 1001)]
    assert all(reply.content["config"] == {"rate": 0.5, "threads": "1"} for reply in replies)


def test_a_reply_carries_the_metadata_that_flower_gives_it(make_grid):
    grid = make_grid(ECHO)
    (message,) = sent = [grid.create_message(RecordDict(), "train", 1002, "7", ttl=60.0)]
    (reply,) = grid.send_and_receive(sent)
    assert reply.metadata.reply_to_message_id == message.metadata.message_id != ""
    assert reply.metadata.message_id not in {"", message.metadata.message_id}
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (1002, message.metadata.src_node_id)
    assert (reply.metadata.group_id, reply.metadata.message_type) == ("7", "train")
    assert reply.metadata.run_id == grid.run.run_id == message.metadata.run_id


def test_replies_come_in_the_order_of_the_messages(make_grid, messages):
    grid = make_grid(SLOW_FIRST)
    replies = grid.send_and_receive(messages([0, 1, 2, 3]))
    assert [reply.metadata.src_node_id for reply in replies] == [1000, 1001, 1002, 1003]


def test_pull_returns_what_is_ready_and_each_reply_once(make_grid, messages, released):
    grid = make_grid(HELD_FIRST)
    ids = grid.push_messages(messages([0, 1, 2]))
    fast, slow = [], []
    while len(fast) < 2:
        fast += grid.pull_messages(ids)
    assert {reply.metadata.reply_to_message_id for reply in fast} == set(ids[1:])
    released.touch()
    while not slow:
        slow = list(grid.pull_messages(ids))
    assert [reply.metadata.reply_to_message_id for reply in slow] == ids[:1]
    assert grid.pull_messages(ids) == []
    assert grid.pull_messages(["unknown"]) == []


def test_a_message_behind_a_slow_one_is_taken_over_by_an_idle_worker(make_grid, messages, released):
    grid = make_grid(HELD_FIRST, nodes=8)
    ids = grid.push_messages(messages(range(8)))
    replies = []
    while len(replies) < 7:  # all but the slow one
        replies += grid.pull_messages(ids)
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids[1:])
    released.touch()


def test_work_is_spread_over_the_workers(make_grid, messages):
    grid = make_grid(ECHO.replace("values = {", "time.sleep(0.05); values = {"), nodes=8, workers=2)
    pids = set()
    while len(pids) < 2:
        pids |= {reply.content["values"]["pid"] for reply in grid.send_and_receive(messages(range(8)))}
    assert os.getpid() not in pids


def test_a_large_config_passes_both_ways(make_grid, messages):
    app = """
    @app.train()
    def train(message, context):
        return Message(RecordDict({"blob": message.content["blob"]}), reply_to=message)
    """
    grid = make_grid(app)
    content = RecordDict({"blob": ConfigRecord({"bytes": os.urandom(3_000_000)})})
    replies = grid.send_and_receive(messages(range(4), content))
    assert all(reply.content["blob"] == content["blob"] for reply in replies)


def test_a_legacy_client_runs(make_grid):
    app = """
    from flwr.client import NumPyClient

    class Client(NumPyClient):
        def fit(self, parameters, config):
            return [parameters[0] + 1], 5, {"loss": 0.25}

    app = ClientApp(client_fn=lambda context: Client().to_client())
    """
    grid = make_grid(app)
    parameters = ArrayRecord([np.zeros(3, np.float32)])
    content = RecordDict({"fitins.parameters": parameters, "fitins.config": ConfigRecord({})})
    (reply,) = grid.send_and_receive([Message(content, 1000, "train")])
    assert reply.content["fitres.num_examples"]["num_examples"] == 5
    assert np.array_equal(reply.content["fitres.parameters"].to_numpy_ndarrays()[0], np.ones(3))


def test_fedavg_averages_the_clients(make_grid):
    app = """
    @app.train()
    def train(message, context):
        (array,) = message.content["arrays"].to_numpy_ndarrays()
        partition = context.node_config["partition-id"]
        content = {
            "arrays": ArrayRecord([array + partition]),
            "metrics": MetricRecord({"num-examples": 1 + partition % 2}),
        }
        return Message(RecordDict(content), reply_to=message)
    """
    grid = make_grid(app)
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(5)]), num_rounds=2)
    assert np.allclose(result.arrays.to_numpy_ndarrays()[0], 2 * (0 + 1 * 2 + 2 + 3 * 2) / 6)


def test_a_message_to_an_unknown_node_is_answered_with_an_error(make_grid, messages):
    grid = make_grid(ECHO)
    replies = grid.send_and_receive(messages([0, 4]))
    assert replies[0].has_content()
    assert replies[1].error.code == ErrorCode.NODE_UNAVAILABLE
    assert "1000 to 1003" in replies[1].error.reason


def test_only_instruction_messages_can_be_pushed(make_grid, messages):
    grid = make_grid(ECHO)
    (message,) = messages([0])
    (reply,) = grid.send_and_receive([message])
    with pytest.raises(UsageError, match="instruction message"):
        grid.push_messages([reply])
    with pytest.raises(UsageError, match="instruction message"):
        grid.push_messages(messages([1], ttl=-1.0))


def test_the_run_can_be_described_but_not_switched(make_grid):
    grid = make_grid(ECHO, run_config={"rate": 0.5})
    described = grid.run
    assert described.override_config == {"rate": 0.5}
    described.fab_id = "me/app"
    assert grid.run.fab_id == ""
    grid.set_run(described)
    assert grid.run.fab_id == "me/app"
    with pytest.raises(UsageError, match="cannot switch"):
        grid.set_run(Run.create_empty(1))
    with pytest.raises(UsageError, match="not a str"):
        grid.set_run("run")


@pytest.mark.parametrize("option", ["nodes", "workers", "threads"])
def test_counts_must_be_positive(make_grid, option):
    with pytest.raises(UsageError, match=f"{option} must be at least 1, not 0"):
        make_grid(ECHO, **{option: 0})


def test_there_are_never_more_workers_than_nodes(make_grid):
    assert make_grid(ECHO, nodes=1, workers=8).workers == 1


def test_a_closed_grid_refuses_messages(make_grid, messages):
    with make_grid(ECHO) as grid:
        sent = messages([0])
    grid.close()
    with pytest.raises(UsageError, match="closed"):
        grid.push_messages(sent)
    with pytest.raises(UsageError, match="closed"):
        grid.pull_messages([])


def test_workers_see_the_environment_of_the_parent(make_grid, messages, monkeypatch):
    monkeypatch.setenv("FEDTRAIN_TEST_VARIABLE", "seen")
    app = """
    @app.train()
    def train(message, context):
        value, path = os.environ["FEDTRAIN_TEST_VARIABLE"], os.environ.get("PYTHONPATH", "")
        return Message(RecordDict({"c": ConfigRecord({"value": value, "path": path})}), reply_to=message)
    """
    (reply,) = make_grid(app).send_and_receive(messages([0]))
    assert reply.content["c"]["value"] == "seen"
    assert reply.content["c"]["path"] == os.environ.get("PYTHONPATH", "")


@pytest.mark.parametrize("draw", ["np.random.random()", "__import__('torch').rand(())"])
def test_workers_draw_different_numbers_from_global_generators(make_grid, messages, draw):
    app = f"""
    import torch

    @app.train()
    def train(message, context):
        time.sleep(0.05)
        value = float({draw})
        return Message(RecordDict({{"m": MetricRecord({{"value": value}})}}), reply_to=message)
    """
    replies = make_grid(app).send_and_receive(messages(range(4)))
    assert len({reply.content["m"]["value"] for reply in replies}) == 4


def test_the_model_does_not_depend_on_the_number_of_workers(make_grid):
    app = """
    @app.train()
    def train(message, context):
        (array,) = message.content["arrays"].to_numpy_ndarrays()
        draw = np.random.default_rng([context.node_config["partition-id"], message.content["config"]["server-round"]])
        time.sleep(float(draw.random()) / 100)
        content = {
            "arrays": ArrayRecord([(array + draw.standard_normal(array.shape)).astype(np.float32)]),
            "metrics": MetricRecord({"num-examples": int(draw.integers(1, 100))}),
        }
        return Message(RecordDict(content), reply_to=message)
    """

    def run(workers):
        random.seed(5)  # from which Flower draws the nodes
        strategy = FedAvg(fraction_train=0.7, fraction_evaluate=0.0)
        with make_grid(app, nodes=12, workers=workers) as grid:
            arrays = ArrayRecord([np.zeros(1000, np.float32)])
            return strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3).arrays.to_numpy_ndarrays()[0]

    one, three = run(1), run(3)
    assert one.tobytes() == three.tobytes()
    assert np.std(one) > 0.1


def test_threads_can_share_a_grid(make_grid, messages):
    grid = make_grid(SLOW_FIRST, nodes=6)
    sent = [messages([node])[0] for node in range(6)]
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda message: grid.send_and_receive([message])[0], sent))
    assert [reply.metadata.src_node_id for reply in replies] == [1000 + node for node in range(6)]


def test_a_thread_that_asks_again_and_again_does_not_starve_the_others(make_grid, messages):
    grid = make_grid(SLOW_FIRST)
    done = threading.Event()

    def ask():
        while not done.is_set():
            grid.pull_messages(["unknown"])

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        replies = [grid.send_and_receive(messages(range(4))) for _ in range(5)]
        done.set()
    assert [future.result() for future in asking] == [None, None]
    assert not any(reply.has_error() for answer in replies for reply in answer)


def test_clients_work_while_the_serverapp_does_something_else(make_grid, messages, tmp_path):
    app = f"""
    @app.train()
    def train(message, context):
        (pathlib.Path({str(tmp_path)!r}) / f"done-{{context.node_config['partition-id']}}").touch()
        return Message(RecordDict(), reply_to=message)
    """
    grid = make_grid("import pathlib\n" + textwrap.dedent(app), nodes=40)
    ids = grid.push_messages(messages(range(40)))
    until(lambda: len(list(tmp_path.glob("done-*"))) == 40)  # without a call of the grid
    replies = []
    while len(replies) < 40:
        replies += grid.pull_messages(ids)
    assert not any(reply.has_error() for reply in replies)


def test_a_time_to_live_ends_without_a_call_of_the_grid(make_grid, messages, released):
    grid = make_grid(HELD_FIRST)
    grid.push_messages(messages([0], ttl=1.0))
    until(lambda: grid.tallies["train"].errors)
    assert grid.tallies["train"].last_error.startswith("client did not answer within 1 s")


def test_a_copy_of_the_process_leaves_the_grid_to_its_original(make_grid, messages):
    grid = make_grid(ECHO)
    grid.send_and_receive(messages([0]))
    child = os.fork()
    if child == 0:
        try:
            grid.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert grid.send_and_receive(messages([1]))[0].has_content()


def test_waiting_can_be_interrupted_and_the_grid_goes_on(make_grid, messages, released):
    grid = make_grid(HELD_FIRST)
    main = threading.main_thread().ident
    timer = threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive(messages([0]))
    timer.join()
    assert grid.send_and_receive(messages([1]))[0].has_content()
    released.touch()


def test_a_grid_that_is_closed_while_a_thread_waits_says_so(make_grid, messages, released):
    grid = make_grid(HELD_FIRST)
    grid.send_and_receive(messages([1]))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(grid.send_and_receive, messages([0]))
        until(lambda: grid._driver._awaited)
        grid.close()
        with pytest.raises(UsageError, match="closed"):
            waiting.result(30)


def test_two_threads_that_pull_one_reply_get_it_once(make_grid, messages, released):
    grid = make_grid(HELD_FIRST, nodes=1)
    ids = grid.push_messages(messages([0]))
    answered = grid._requests[ids[0]].arena.answered
    pulling = threading.Barrier(3)

    def pull():
        pulling.wait()
        replies = grid.pull_messages(ids)
        while not answered.is_set():
            replies += grid.pull_messages(ids)
        return replies + grid.pull_messages(ids)

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(pull) for _ in range(2)]
        pulling.wait()
        released.touch()
        assert sum(len(each.result()) for each in found) == 1


def test_a_grid_that_rests_has_no_workers_and_others_answer_the_next_message(make_grid, messages):
    grid = make_grid(COUNT, nodes=2)
    before = [reply.content["values"] for reply in grid.send_and_receive(messages(range(2)))]
    pids = {int(values["pid"]) for values in before}
    grid.rest()
    until(lambda: not any(map(runs, pids)))
    grid.rest()
    after = [reply.content["values"] for reply in grid.send_and_receive(messages(range(2)))]
    assert [values["count"] for values in after] == [2, 2]
    assert not pids & {int(values["pid"]) for values in after}


def test_a_worker_that_runs_a_message_does_not_rest(make_grid, messages, tmp_path):
    grid = make_grid(COUNT, nodes=2, run_config={"gate": str(tmp_path / "gate"), "began": str(tmp_path / "began")})
    sent = grid.push_messages(messages([0]))
    until((tmp_path / "began").exists)
    grid.rest()
    (tmp_path / "gate").touch()
    replies = []
    until(lambda: replies.extend(grid.pull_messages(sent)) or replies)
    assert not replies[0].has_error()
    assert len(grid.send_and_receive(messages(range(2)))) == 2
