import json

import pytest
from typer.testing import CliRunner

from fedtrain.cli.app import app
from fedtrain.status import FILE, Asked, Begun, Ended, EventLog

HOSTILE = "\x1b[2J\x1b]0;title\x07<b> \N{RIGHT-TO-LEFT OVERRIDE}\rwhat is not so"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with EventLog(folder / FILE) as log:
        log.begin(Begun(time=0.0, name="demo", mode="none", rounds=3, done=0, clients=2, deadline=60.0))
        log.append(Asked(time=0.0, round=1, clients=2, cohort=(0, 1)))
        log.append(Ended(time=0.0, status="interrupted", reason="stopped by the user", round=0))
    return folder


def watch(*arguments):
    return CliRunner().invoke(app, ["watch", *map(str, arguments)])


def test_a_run_is_shown_once_where_there_is_no_terminal(run):
    for arguments in ([run], [run, "--once"]):
        outcome = watch(*arguments)
        assert outcome.exit_code == 0
        assert outcome.stdout.splitlines()[:2] == ["demo: interrupted; go on with --resume", "  stopped by the user"]


def test_programs_get_one_object(run):
    found = json.loads(watch(run, "--json").stdout)
    assert (found["name"], found["state"], found["rounds"]) == ("demo", "interrupted", 3)


def test_a_file_of_somebody_else_writes_nothing_to_the_terminal_but_text(run):
    begun = {"event": "run", "schema": "fedtrain.events/1", "time": 1, "mode": HOSTILE, "metric": HOSTILE, "done": 0}
    lines = [
        begun | {"name": HOSTILE, "rounds": 2, "clients": 2, "deadline": 9, "names": {"0": HOSTILE}, "epsilon": 1},
        {"event": "done", "time": 1, "round": 1, "value": 0.5, "losses": [{"client": 0, "reason": HOSTILE}]},
        {"event": "notice", "time": 1, "text": HOSTILE},
        {"event": "round", "time": 1, "round": 2, "clients": 1, "cohort": [0]},
        {"event": "notice", "time": 1e300, "text": "a time that is none"},
        {"event": "end", "time": 1, "status": "failed", "reason": HOSTILE, "round": 1},
    ]
    (run / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for output in ("--once", "--json"):
        shown = watch(run, output).stdout
        assert "failed" in shown
        assert "a time that is none" not in shown
        for mark in ("\x1b", "\\u001b", "\r", "\N{RIGHT-TO-LEFT OVERRIDE}", "\\u202e"):
            assert mark not in shown


def test_a_folder_without_a_run_is_told(tmp_path):
    outcome = watch(tmp_path / "none")
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (2, 1)
    assert "there is no run folder" in outcome.stderr
    outcome = watch(tmp_path)
    assert outcome.exit_code == 2
    assert "its run has not begun" in outcome.stderr
