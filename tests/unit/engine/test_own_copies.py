"""A command's workers are copies of its own process where that has one thread, and get nothing that it has open."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import runs, until

ROOT = Path(__file__).parents[3]

# What draws at random. The script has all of it imported, and has drawn from it, when it is copied.
DRAWS = """
import random, secrets
import numpy as np, torch
from fedtrain.crypto import Identity
from fedtrain.privacy.noise import SecureSource

source = SecureSource()

def draws():
    return {
        "torch": torch.rand(4).tolist(),
        "numpy": np.random.random(4).tolist(),
        "random": random.random(),
        "secrets": secrets.token_hex(8),
        "noise": source.gaussian((4,), std=1.0, device=torch.device("cpu")).tolist(),
        "sample": source.bernoulli(64, 0.5).tolist(),
        "key": Identity.generate().sign(b"").hex(),
    }
"""

APP = """
import json
import torch
from draws import draws
from threadpoolctl import threadpool_info

@app.train()
def train(message, context):
    if message.metadata.group_id == "die":
        os._exit(7)
    np.ones((500, 500)) @ np.ones((500, 500))
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "open": {number: os.readlink(f"/proc/self/fd/{number}") for number in map(str, range(100))
                 if os.path.exists(f"/proc/self/fd/{number}")},
        "threads": [torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())],
        "draws": draws(),
    }
    return Message(RecordDict({"facts": ConfigRecord({"json": json.dumps(facts)})}), reply_to=message)
"""

SCRIPT = """
import fcntl, json, os, socket, sys, threading, time
from multiprocessing import forkserver
from pathlib import Path
import numpy as np
import torch
from flwr.app import Message, RecordDict
from threadpoolctl import threadpool_info
from draws import draws
from fedtrain.engine import LocalGrid
from fedtrain.engine.forking import count_threads

def messages(*nodes, group=""):
    return [Message(RecordDict(), 1000 + node, "train", group_id=group) for node in nodes]

def grid():
    return LocalGrid(
        client_app="client:app", app_dir=Path(sys.argv[1]), run_config={}, nodes=8, workers=2, preload=(), copies=True
    )

def asked(grid, *nodes):
    replies = grid.send_and_receive(messages(*nodes))
    assert not any(reply.has_error() for reply in replies), replies[0].error
    return [json.loads(reply.content["facts"]["json"]) for reply in replies]

def blas():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

if __name__ == "__main__":
    # On some processors torch draws a few Gaussians on several threads, which stay.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drawn = draws()
    torch.set_num_threads(threads)
"""


@pytest.fixture
def script(write_app, tmp_path):
    """Give a function that runs a script in a process of its own, and returns what it printed as JSON."""
    (tmp_path / "draws.py").write_text(DRAWS)
    folder = write_app(APP)

    def run(body, **options):
        file = tmp_path / "script.py"
        file.write_text(SCRIPT + textwrap.indent(textwrap.dedent(body), "    "))
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        command = [sys.executable, str(file), str(folder)]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run


def told(ended):
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def test_workers_are_copies_of_a_process_that_has_one_thread(script):
    found = told(
        script("""
        np.ones((500, 500)) @ np.ones((500, 500))  # its threads end before the fork, and come back
        before = blas()
        with grid() as one:
            facts = asked(one, *range(8))
            print(json.dumps({
                "template": one._template._pid, "server": forkserver._forkserver._forkserver_pid, "before": before,
                "after": blas(), "facts": facts,
            }))
        """)
    )
    assert found["server"] is None
    assert {each["parent"] for each in found["facts"]} == {found["template"]}
    assert {number for each in found["facts"] for number in each["threads"]} == {1}
    assert found["after"] == found["before"]


def test_no_two_processes_draw_the_same(script):
    found = told(
        script("""
        with grid() as one:
            facts = asked(one, *range(8))
            one.send_and_receive(messages(*range(8), group="die"))  # and so those that take their places
            facts += asked(one, *range(8))
            print(json.dumps({"facts": facts, "draws": [drawn, draws()]}))
        """)
    )
    assert len({each["pid"] for each in found["facts"]}) > 2
    everyone = [*found["draws"], *(each["draws"] for each in found["facts"])]
    for name in everyone[0]:
        assert len({json.dumps(draw[name]) for draw in everyone}) == len(everyone), name


def test_copies_have_nothing_of_what_the_process_has_open(script, tmp_path):
    (tmp_path / "secret").write_text("planted")
    found = told(
        script("""
        secret, listener = open("secret"), socket.create_server(("127.0.0.1", 0))
        os.dup2(secret.fileno(), 77, inheritable=True)
        fcntl.flock(secret, fcntl.LOCK_EX)
        with grid() as one:
            facts = asked(one, *range(8))
            mine = {os.readlink(f"/proc/self/fd/{number}") for number in (secret.fileno(), listener.fileno(), 77)}
            secret.close(), os.close(77)
            again = open("secret")
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # that of the process has ended, in copies too
            print(json.dumps({"facts": facts, "mine": sorted(mine)}))
        """)
    )
    assert len(found["mine"]) == 2
    for facts in found["facts"]:
        assert facts["open"]["0"] == facts["open"]["77"] == os.devnull
        assert not set(facts["open"].values()) & set(found["mine"])
        # What is its own: pipes, the messages, and where a crash leaves its stack.
        others = [place for number, place in facts["open"].items() if int(number) > 2 and place != os.devnull]
        assert all(place.startswith(("pipe:", "socket:", "/dev/shm/fedtrain-", "/tmp/fedtrain-")) for place in others)


def test_a_process_with_another_thread_uses_the_fork_server(script):
    found = told(
        script("""
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        with grid() as one:
            facts = asked(one, *range(8))
            print(json.dumps({
                "template": one._template, "server": forkserver._forkserver._forkserver_pid, "facts": facts,
                "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
            }))
        """)
    )
    assert found["template"] is None
    assert {each["parent"] for each in found["facts"]} == {found["server"]}
    # The copy that had been made is gone: there are the fork server and what removes what workers leave.
    assert len(found["children"]) == 2
    assert str(found["server"]) in found["children"]


def test_a_second_grid_has_workers_too(script):
    found = told(
        script("""
        with grid() as one, grid() as two:
            print(json.dumps([[facts["pid"] for facts in asked(each, *range(8))] for each in (one, two)]))
        """)
    )
    assert not set(found[0]) & set(found[1])


def test_an_app_that_cannot_be_loaded_is_named(script, write_app):
    write_app("raise LookupError('planted')")
    found = told(
        script("""
        with grid() as one:
            try:
                asked(one, 0)
            except Exception as error:
                print(json.dumps(str(error)))
        """)
    )
    assert found.startswith("the ClientApp client:app cannot be loaded:\nTraceback")
    assert found.endswith("LookupError: planted")


def test_nothing_is_left_of_a_process_that_is_killed(script):
    ended = script("""
        one = grid()
        facts = asked(one, *range(8))
        print(json.dumps([[one._template._pid, *(each["pid"] for each in facts)], list(map(str, one._directories))]))
        sys.stdout.flush()
        os.kill(os.getpid(), 9)
        """)
    assert (ended.returncode, ended.stderr) == (-9, "")
    pids, folders = json.loads(ended.stdout)
    until(lambda: not any(map(runs, pids)) and not any(Path(folder).exists() for folder in folders))


def test_busy_workers_end_in_silence(script, write_app):
    write_app("""
    import multiprocessing

    @app.train()
    def train(message, context):
        held = multiprocessing.get_context("forkserver").Semaphore()
        open(f"held-{context.node_id}", "w").close()
        time.sleep(600)
    """)
    ended = script("""
        one = grid()
        one.push_messages(messages(0, 1))
        while not all(os.path.exists(f"held-{1000 + node}") for node in range(2)):
            time.sleep(0.01)
        """)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
