"""The processes of clients that are copies; a whole node with them is in tests/integration/test_superlink.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
from fedtrain.flower.looks import Looks
from fedtrain.flower.superexec import CLIENTAPP, ClientApps, launching

apps = ClientApps()
children = lambda: set(map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split()))
(template,) = children()
threads = len(os.listdir(f"/proc/{template}/task"))
module = launching(apps, Looks())
found = {"threads": threads}
copy = module.Popen([CLIENTAPP, "--help"])
copy.join()
found["copy"] = [type(copy).__name__, copy.exitcode, os.path.realpath(f"/proc/{template}") != f"/proc/{copy.pid}"]
silent = module.Popen([CLIENTAPP, "--help"], stdout=module.DEVNULL)
found["silent"] = [type(silent).__name__, silent.wait()]
other = module.Popen([sys.executable, "-c", "print('another program')"])
found["other"] = [type(other).__name__, other.wait()]
apps.close()
cold = module.Popen([CLIENTAPP, "--insecure"])
found["cold"] = [type(cold).__name__, cold.wait()]
print(json.dumps(found))
"""


# One after another, with a template for each, in one process: to import it all takes seconds.
SCENES = """
import atexit, subprocess, sys, tempfile, threading, time
import flwr.supernode.cli as command, numpy, torch
from flwr.supercore.app_utils import start_parent_process_monitor
from fedtrain.flower.superexec import CLIENTAPP, ClientApps

def draws():
    print(numpy.random.random(), torch.rand(1).item())

ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
ended.wait()

def without_parent():
    start_parent_process_monitor(ended.pid)
    try:
        for _ in range(6000):
            time.sleep(0.01)  # the signal comes to another thread, and so ends no sleep
    except KeyboardInterrupt:
        print("ended")

def leaves():
    global kept
    kept = tempfile.TemporaryDirectory()
    atexit.register(print, "at the end")
    threading.Thread(target=lambda: (threading.main_thread().join(), print(kept.name))).start()
    sys.exit(1)

for scene, times in ((draws, 2), (without_parent, 1), (leaves, 1)):
    command.flwr_clientapp = scene
    apps = ClientApps()
    for _ in range(times):
        apps.start([CLIENTAPP]).join()
    apps.close()
    print("--", flush=True)
"""


@pytest.fixture(scope="module")
def answered():
    return run_apart(SCRIPT)


def run_apart(script):
    """Run a script in a process of its own, which has the one thread that a node's has."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def found(answered):
    assert answered.returncode == 0, answered.stderr
    return json.loads(answered.stdout.splitlines()[-1])


def test_a_client_is_a_copy_and_runs_flowers_command(answered, found):
    assert found["copy"] == ["ForkedProcess", 0, True]
    assert answered.stdout.count("Run a Flower ClientApp") == 1


def test_what_is_copied_has_one_thread(found):
    assert found["threads"] == 1


def test_what_asks_for_other_streams_and_other_programs_are_started_as_always(answered, found):
    assert found["silent"] == ["Popen", 0]
    assert found["other"] == ["Popen", 0]
    assert "another program" in answered.stdout


def test_where_no_copy_can_be_made_the_program_is_started(answered, found):
    assert found["cold"] == ["Popen", 2]
    assert "one of the arguments --token --token-file is required" in answered.stderr


@pytest.fixture(scope="module")
def scenes():
    """Return the lines of each scene."""
    answered = run_apart(SCENES)
    assert answered.returncode == 0, answered.stderr
    return [scene.splitlines() for scene in answered.stdout.split("--\n")]


def test_copies_draw_different_numbers_where_an_app_seeds_nothing(scenes):
    first, second = (line.split() for line in scenes[0])
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_a_copy_ends_when_what_started_it_has_ended(scenes):
    assert scenes[1] == ["ended"]


def test_a_copy_ends_as_a_program_and_leaves_no_temporary_files_of_an_app(scenes):
    folder, last = scenes[2]
    assert last == "at the end"
    assert not Path(folder).exists()


WITHOUT_DESCRIPTORS = """
import os, resource
from fedtrain.flower.looks import Looks
from fedtrain.flower.superexec import CLIENTAPP, ClientApps, launching

module = launching(ClientApps(), Looks())
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    for _ in range(3):  # a copy takes four, and another program two
        os.close(taken.pop())
program = module.Popen([CLIENTAPP, "--help"])
print(type(program).__name__, program.wait())
"""


def test_where_descriptors_are_short_the_program_is_started():
    answered = run_apart(WITHOUT_DESCRIPTORS)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.splitlines()[-1] == "Popen 0"
