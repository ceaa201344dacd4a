import json

import pytest
from typer.testing import CliRunner

from fedtrain.cli.app import app
from fedtrain.status import FILE, Asked, Begun, Ended, EventLog


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


def test_a_folder_without_a_run_is_told(tmp_path):
    outcome = watch(tmp_path / "none")
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (2, 1)
    assert "there is no run folder" in outcome.stderr
    outcome = watch(tmp_path)
    assert outcome.exit_code == 2
    assert "its run has not begun" in outcome.stderr
