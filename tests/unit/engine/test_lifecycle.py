import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import runs, until

ROOT = Path(__file__).parents[3]

APP = """
@app.train()
def train(message, context):
    with open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w"):
        pass
    if message.metadata.group_id == "busy":
        with open(os.path.join(os.environ["PIDS"], "busy-" + str(os.getpid())), "w"):
            pass
        while True:
            pass
    return Message(RecordDict(), reply_to=message)
"""

SCRIPT = """
import os, sys
from pathlib import Path
open(os.path.join(os.environ["PIDS"], "main-" + str(os.getpid())), "w").close()  # no __main__ guard, on purpose
from flwr.app import Message, RecordDict
from fedtrain.engine import LocalGrid

def messages(nodes, group=""):
    return [Message(RecordDict(), 1000 + node, "train", group_id=group) for node in nodes]

grid = LocalGrid(
    client_app="client:app", app_dir=Path(sys.argv[1]), run_config={{}}, nodes=4, workers=2, preload={preload}
)
while len([name for name in os.listdir(os.environ["PIDS"]) if name.isdigit()]) < 2:
    grid.send_and_receive(messages(range(4)))
print("directories", *grid._directories, flush=True)
sys.stdin.readline()  # until they have been looked at
{body}
"""


@pytest.fixture
def start(write_app, tmp_path):
    """Starts a script that opens a grid; returns it, the grid's directories and the workers' process ids."""
    started = []
    # Too long for the path of a socket: the engine makes its sockets elsewhere.
    temporary = tmp_path / ("long" * 25)
    temporary.mkdir()

    def run(body, app=APP, preload=()):
        folder = write_app(app)
        pids = tmp_path / "pids"
        pids.mkdir()
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(body=body, preload=preload))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIDS": str(pids), "TMPDIR": str(temporary)}
        command = [sys.executable, str(script), str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        directories = [Path(word) for word in process.stdout.readline().split()[1:]]
        assert directories
        assert all(directory.is_dir() for directory in directories)
        names = [path.name for path in pids.iterdir()]
        assert [name for name in names if name.startswith("main-")] == [f"main-{process.pid}"]
        process.stdin.write("\n")
        process.stdin.flush()
        return process, directories, [int(name) for name in names if name.isdigit()]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def await_the_end(directories, pids):
    until(lambda: not any(map(runs, pids)) and not any(directory.exists() for directory in directories))


@pytest.mark.parametrize("group", ["", "busy"])
def test_nothing_is_left_when_the_parent_is_killed(start, group):
    body = f"grid.push_messages(messages([0, 1], {group!r})); print('pushed', flush=True); import time; time.sleep(60)"
    process, directories, pids = start(body)
    assert process.stdout.readline() == "pushed\n"
    assert all(map(runs, pids))
    process.kill()
    await_the_end(directories, pids)


def test_nothing_is_left_when_the_parent_ends_without_closing(start):
    process, directories, pids = start("grid.push_messages(messages([0, 1], 'busy'))")
    assert process.wait() == 0
    await_the_end(directories, pids)


def test_the_grid_can_be_closed_after_ctrl_c(start, tmp_path):
    body = """
try:
    print("waiting", flush=True)
    grid.send_and_receive(messages([0, 1], "busy"))
except KeyboardInterrupt:
    replies = grid.send_and_receive(messages([2]), timeout=0.3)  # the workers still live, busy
    print("interrupted", "not started" in replies[0].error.reason, flush=True)
grid.close()
grid.close()
print("closed", flush=True)
"""
    process, directories, pids = start(body)
    assert process.stdout.readline() == "waiting\n"
    until(lambda: len(list((tmp_path / "pids").glob("busy-*"))) == 2)
    for pid in [process.pid, *pids]:  # as a terminal does
        os.kill(pid, signal.SIGINT)
    assert process.stdout.read() == "interrupted True\nclosed\n"
    assert process.wait() == 0
    await_the_end(directories, pids)


def test_close_removes_everything_while_workers_are_busy(start):
    process, directories, pids = start(
        "grid.push_messages(messages([0, 1], 'busy')); grid.close(); print('closed', flush=True); input()"
    )
    assert process.stdout.readline() == "closed\n"
    await_the_end(directories, pids)
    assert process.poll() is None


def test_processes_that_a_client_started_end_with_a_stopped_worker(start, tmp_path):
    app = (
        APP
        + """
@app.query()
def query(message, context):
    import subprocess
    child = subprocess.Popen(["sleep", "60"])
    open(os.path.join(os.environ["PIDS"], "child-" + str(child.pid)), "w").close()
    child.wait()
"""
    )
    body = """
(reply,) = grid.send_and_receive([Message(RecordDict(), 1000, "query")], timeout=5.0)
print(reply.error.reason.splitlines()[0], flush=True)
grid.close()
"""
    process, directories, pids = start(body, app)
    assert "did not answer within 5 s" in process.stdout.read()
    (child,) = [int(path.name.removeprefix("child-")) for path in (tmp_path / "pids").glob("child-*")]
    await_the_end(directories, [*pids, child])


def test_torch_is_preloaded_and_has_one_thread(start):
    app = (
        APP
        + """
@app.query()
def query(message, context):
    torch = sys.modules["torch"]
    return Message(RecordDict({"m": MetricRecord({"threads": torch.get_num_threads()})}), reply_to=message)
"""
    )
    body = """
replies = grid.send_and_receive([Message(RecordDict(), 1000 + node, "query") for node in range(4)])
print([reply.content["m"]["threads"] for reply in replies])
grid.close()
"""
    process, _, _ = start(body, app, preload=("torch", "no_such_module"))
    # Not communicate(), which leaves out what came along with the first line.
    assert process.stdout.read() == "[1, 1, 1, 1]\n"
