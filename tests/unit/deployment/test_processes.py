import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest

from fedtrain.deployment import processes as module
from fedtrain.deployment.processes import Processes, Stopped, delays, only_one, stopped_by_signals, unproxied
from fedtrain.errors import RunError, SiteError, StorageError
from tests.processes import PATIENCE, runs, until


def script(text, *arguments):
    return [sys.executable, "-c", text, *arguments]


@pytest.fixture
def started(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        yield processes


def said(processes, name):
    until(lambda: processes.printed(name).endswith("\n"))
    return processes.printed(name).strip()


def test_a_program_prints_into_its_log_and_is_told_its_environment(started, tmp_path):
    started.start("one", script("import os; print(os.environ['SAID'])"), {"SAID": "hello"})
    until(lambda: started.status("one") is not None)
    assert started.status("one") == 0
    assert started.printed("one") == "hello\n"
    assert started.log("one") == tmp_path / "logs" / "one.log"
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_what_a_program_writes_is_closed_to_others(started, tmp_path):
    started.start("one", script("open('file', 'w').close()"))
    until(lambda: started.status("one") is not None)
    assert (tmp_path / "logs" / "file").stat().st_mode & 0o777 == 0o600


def test_what_a_second_start_prints_begins_where_the_first_ended(started):
    assert started.size("one") == 0
    assert started.printed("one") == ""
    for word in ("first", "second"):
        begin = started.size("one")
        started.start("one", script(f"print('{word}')"))
        until(lambda: started.status("one") is not None)
        assert started.printed("one", start=begin) == f"{word}\n"
    assert started.printed("one") == "first\nsecond\n"


def test_a_failure_is_a_status(started):
    started.start("one", script("import sys; sys.exit('no luck')"))
    until(lambda: started.status("one") is not None)
    assert started.status("one") == 1
    assert "no luck" in started.printed("one")


def test_the_beginning_of_a_large_log_is_put_aside_while_the_program_goes_on(started, monkeypatch):
    text = "import sys\nfor line in sys.argv[1:]:\n print(line, flush=True)\n while line not in open('go').read(): pass"
    go = started.log("go").with_name("go")
    go.write_text("")
    started.start("one", script(text, "first", "second"))
    assert said(started, "one") == "first"
    started.trim()
    assert started.printed("one") == "first\n"
    monkeypatch.setattr(module, "_LARGEST_LOG", 3)
    started.trim()
    assert started.printed("one") == ""
    go.write_text("first")
    assert said(started, "one") == "second"
    go.write_text("first second")
    assert started.log("one").with_suffix(".log.1").read_text() == "first\n"
    started.log("one").unlink()
    started.trim()


def test_the_end_of_the_block_ends_all_programs_even_one_in_a_session_of_its_own(tmp_path):
    text = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
    bystander = subprocess.Popen(script("import time; time.sleep(600)"))
    try:
        with Processes(tmp_path) as processes:
            processes.start("one", script(text))
            grandchild = int(said(processes, "one"))
            assert runs(grandchild)
        until(lambda: not runs(grandchild))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_programs_are_asked_before_they_are_killed(started, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 5.0)
    asked = """
import signal, sys, time
def answer(*_):
    print("asked", flush=True)
    {then}
signal.signal(signal.SIGTERM, answer)
print("up", flush=True)
time.sleep(600)
"""
    started.start("polite", script(asked.replace("{then}", "sys.exit(0)")))
    started.start("deaf", script(asked.replace("{then}", "time.sleep(600)")))
    polite, deaf = started._running["polite"], started._running["deaf"]
    assert said(started, "polite") == said(started, "deaf") == "up"
    started.stop("polite", "deaf", "unknown")
    assert (polite.returncode, deaf.returncode) == (0, -signal.SIGKILL)
    assert started.printed("polite") == started.printed("deaf") == "up\nasked\n"


def test_programs_end_when_the_process_that_started_them_is_killed(tmp_path):
    text = """
import sys, time
from pathlib import Path
from fedtrain.deployment.processes import Processes
with Processes(Path(sys.argv[1])) as processes:
    processes.start("one", [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"])
    time.sleep(600)
"""
    parent = subprocess.Popen(script(text, str(tmp_path)))
    log = tmp_path / "one.log"
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    child = int(log.read_text())
    assert runs(child)
    parent.kill()
    parent.wait()
    until(lambda: not runs(child))


def test_a_program_whose_starter_is_gone_before_it_begins_does_not(tmp_path):
    command = [sys.executable, "-m", "fedtrain.deployment.lifetime", "1", *script("print('began')")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_program_that_is_not_there(started):
    started.start("one", ["/nonexistent/program"])
    until(lambda: started.status("one") is not None)
    assert started.status("one") == 1
    assert "FileNotFoundError" in started.printed("one")


def test_no_program_can_be_started(started, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(RunError, match="cannot start /bin/true: No such file"):
        started.start("one", ["/bin/true"])


def test_logs_that_cannot_be_written(started, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        Processes(tmp_path / "file" / "logs")
    started.log("one").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*one\.log"):
        started.start("one", script(""))


def test_one_process_holds_a_folder(tmp_path):
    text = """
import sys
from pathlib import Path
from fedtrain.deployment.processes import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(script(text, str(tmp_path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(SiteError, match="is in use"), only_one(tmp_path):
        pytest.fail("two hold it")
    other.kill()
    other.communicate()
    with only_one(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write in"), only_one(tmp_path / "file"):
        pytest.fail("that is no folder")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_block_once_and_cleaning_up_is_undisturbed(number):
    before = signal.getsignal(number)
    cleaned = []

    def interrupted():
        with stopped_by_signals():
            try:
                os.kill(os.getpid(), number)
                threading.Event().wait(PATIENCE)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                cleaned.append(True)

    with pytest.raises(Stopped):
        interrupted()
    assert cleaned
    assert signal.getsignal(number) == before
    assert not issubclass(Stopped, Exception)


def test_delays_double_up_to_a_minute_and_are_spread():
    found = [list(itertools.islice(delays(), 10)) for _ in range(50)]
    for number, expected in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]):
        column = [row[number] for row in found]
        assert all(0.75 * expected <= delay <= 1.25 * expected for delay in column)
        assert len(set(column)) > 1


def test_programs_find_one_another_past_a_proxy(started, monkeypatch):
    show = script("import os; print(os.environ['no_proxy'])")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    started.start("one", show)
    assert said(started, "one") == "localhost,127.0.0.1"
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert unproxied()["no_proxy"] == unproxied()["NO_PROXY"] == "example.org,localhost,127.0.0.1"
