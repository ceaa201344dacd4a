"""Workers that are copies of this process: the same guarantees as those that import the app."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from threadpoolctl import threadpool_info, threadpool_limits

from fedtrain.engine import LocalGrid, forking
from fedtrain.engine.forking import Template
from fedtrain.errors import RunError, UsageError
from tests.processes import runs, until


@pytest.fixture
def make(tmp_path):
    """Give a function that makes a grid whose clients call a function of this process: no module, nothing pickled."""
    grids = []

    def make(train, **options):
        app = ClientApp()
        app.train()(train)
        settings = {"run_config": {}, "nodes": 4, "workers": 2, "preload": ()} | options
        grid = LocalGrid(client_app=app, app_dir=tmp_path, **settings)
        grids.append(grid)
        return grid

    yield make
    for grid in grids:
        grid.close()


def reply(message, **metrics):
    return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=message)


def metrics_of(replies):
    return [dict(answer.content["m"]) for answer in replies]


def test_workers_inherit_what_exists_in_this_process_alone(make, messages):
    lock = threading.Lock()  # cannot be pickled

    class Local:
        def value(self):
            with lock:
                return 17

    local = Local()

    def train(message, context):
        count = context.state.metric_records.setdefault("count", MetricRecord({"n": 0}))
        count["n"] += 1
        return reply(message, value=local.value(), node=context.node_id, calls=count["n"], pid=os.getpid())

    grid = make(train)
    for call in (1, 2):
        answers = metrics_of(grid.send_and_receive(messages(range(4))))
        assert [(a["value"], a["node"], a["calls"]) for a in answers] == [(17, 1000 + n, call) for n in range(4)]
        assert os.getpid() not in {answer["pid"] for answer in answers}


def test_two_grids_have_two_apps(make, messages):
    grids = [make(lambda message, _, value=value: reply(message, value=value), workers=1) for value in (1, 2)]
    answers = [metrics_of(grid.send_and_receive(messages(range(2)))) for grid in grids]
    assert answers == [[{"value": 1}] * 2, [{"value": 2}] * 2]


def test_gradients_are_the_same_as_here_though_this_process_has_used_many_threads(make, messages):
    def gradient():
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 16, 3)
        layer(torch.randn(32, 3, 20, 20)).square().sum().backward()
        return layer.weight.grad.numpy()

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    gradient()
    torch.set_num_threads(1)
    expected = gradient()
    torch.set_num_threads(before)

    def train(message, _):
        return Message(RecordDict({"g": ArrayRecord({"g": Array(gradient())})}), reply_to=message)

    for answer in make(train).send_and_receive(messages(range(4))):
        assert np.array_equal(answer.content["g"]["g"].numpy(), expected)


def test_copies_use_one_thread_for_products_and_this_process_as_many_as_before(make, messages):
    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    with threadpool_limits(3, user_api="blas"):
        grid = make(lambda message, _: reply(message, threads=threads()))
        assert set(threads()) == {3}
        answers = metrics_of(grid.send_and_receive(messages(range(4))))
        assert {number for answer in answers for number in answer["threads"]} == {1}
    assert threads() == before


@pytest.mark.parametrize(
    ("action", "code", "text"),
    [
        (lambda: 1 / 0, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "ZeroDivisionError"),
        (lambda: sys.exit(3), ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "SystemExit: 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), ErrorCode.CLIENT_APP_CRASHED, "was killed by SIGKILL"),
        (lambda: os._exit(7), ErrorCode.CLIENT_APP_CRASHED, "exited with code 7"),
    ],
)
def test_what_goes_wrong_is_the_reply_and_a_new_copy_takes_the_place(make, messages, action, code, text):
    def train(message, context):
        if context.node_id == 1001:
            action()
        return reply(message, pid=os.getpid())

    grid = make(train)
    for _ in range(2):
        replies = grid.send_and_receive(messages(range(4)))
        assert [answer.has_error() for answer in replies] == [False, True, False, False]
        assert replies[1].error.code == code
        assert text in replies[1].error.reason


def test_a_copy_that_hangs_is_stopped_and_says_where(make, messages):
    def train(message, context):
        if context.node_id == 1000:
            linger()
        return reply(message)

    def linger():
        while True:
            time.sleep(0.01)

    first, second = make(train).send_and_receive(messages(range(2)), timeout=1.0)
    assert first.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert "in linger" in first.error.reason
    assert not second.has_error()


def test_a_grid_that_is_closed_leaves_no_process(make, messages):
    grid = make(lambda message, _: reply(message, pid=os.getpid()))
    pids = {answer["pid"] for answer in metrics_of(grid.send_and_receive(messages(range(4))))}
    pids.add(grid._template._pid)
    grid.close()
    until(lambda: not any(runs(pid) for pid in pids))
    grid.close()


def test_a_grid_can_be_made_in_a_thread(make, messages):
    answers = []

    def work():
        answers.extend(make(lambda message, _: reply(message, value=1)).send_and_receive(messages(range(4))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert metrics_of(answers) == [{"value": 1}] * 4


def test_copies_write_to_the_descriptors_and_not_to_the_streams_of_a_notebook(make, messages, monkeypatch, capfd):
    class FrontEnd:
        def write(self, _):
            raise AssertionError("the thread that sends this is not here")

        def flush(self):
            raise AssertionError("likewise")

    monkeypatch.setattr(sys, "stdout", FrontEnd())

    def train(message, _):
        print("from a copy")
        return reply(message)

    grid = make(train)
    replies = grid.send_and_receive(messages(range(2)))
    monkeypatch.undo()
    assert not any(answer.has_error() for answer in replies)
    assert capfd.readouterr().out.count("from a copy") == 2


def test_a_copy_that_cannot_compute_gradients_says_what_to_do(make, messages, monkeypatch):
    def backward(*_, **__):
        raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing.")

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with pytest.raises(RunError, match=r"Restart the program or kernel .*Unable to handle autograd"):
        make(lambda message, _: reply(message)).send_and_receive(messages([0]))


def test_what_cannot_be_copied_is_refused_before_anything_starts(make, monkeypatch):
    def train(message, _):
        return reply(message)

    with pytest.raises(UsageError, match="threads = 2 is not for a ClientApp that is an object"):
        make(train, threads=2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="what has used CUDA cannot be copied: restart the program or kernel"):
        make(train)
    monkeypatch.undo()
    monkeypatch.setattr(forking.sys, "platform", "darwin")
    with pytest.raises(UsageError, match="which Linux can make and darwin cannot: put the task into a module"):
        make(train)


def test_a_template_that_is_gone_fails_the_run(make, messages):
    grid = make(lambda message, _: reply(message))
    grid.send_and_receive(messages(range(4)))
    os.kill(grid._template._pid, signal.SIGKILL)

    def use():
        while True:
            grid.send_and_receive(messages(range(4)))

    with pytest.raises(RunError, match="a worker process cannot be started: the process of which workers are copies"):
        use()


def test_a_worker_that_fails_before_it_runs_says_why_on_its_stderr(capfd):
    def work(*_):
        raise LookupError("planted")

    with closing(Template(work)) as template:
        process, connection = template.start(0)
        with connection:
            process.join(30)
            assert process.exitcode == 1
            process.kill()  # it has ended already
    assert "LookupError: planted" in capfd.readouterr().err


def test_when_the_parent_is_killed_nothing_of_it_is_left(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        from pathlib import Path
        from flwr.app import Message, MetricRecord, RecordDict
        from flwr.clientapp import ClientApp
        from fedtrain.engine import LocalGrid

        app = ClientApp()

        @app.train()
        def train(message, context):
            return Message(RecordDict({"m": MetricRecord({"pid": os.getpid()})}), reply_to=message)

        grid = LocalGrid(client_app=app, app_dir=Path(), run_config={}, nodes=4, workers=2, preload=())
        replies = grid.send_and_receive([Message(RecordDict(), 1000 + node, "train") for node in range(4)])
        print(grid._template._pid, *(reply.content["m"]["pid"] for reply in replies))
        print(*grid._directories, flush=True)
        time.sleep(600)
        """)
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        directories = process.stdout.readline().split()
        process.kill()
    assert len(pids) == 5
    until(lambda: not any(runs(pid) for pid in pids))
    until(lambda: not any(os.path.exists(directory) for directory in directories))  # noqa: PTH110
