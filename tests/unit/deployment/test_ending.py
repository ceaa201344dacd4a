import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from fedtrain.deployment.ending import GONE, Ending, Outcome, app_is_gone, await_app, outcome
from fedtrain.machines.starts import held

STOPPED = Ending(status="finished:stopped", details="N/A")
RAISED = Ending(status="finished:failed", details="ServerApp failed with exception: planted")
STARTED = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "runs" / "first"
    (place / "records").mkdir(parents=True)
    (place / "config.toml").write_text("")
    return place


def leave(folder, status="interrupted"):
    (folder / "report.json").write_text(json.dumps({"status": status, "reason": "planted"}))


def told(folder, ending=STOPPED, *, ended=True):
    return outcome("first", folder, ending, started=STARTED, ended=ended)


def test_an_app_that_writes_its_report_after_flower_has_called_its_run_ended_is_waited_for(folder):
    """The order of a slow machine: the stop, then what the app has to say."""
    with ExitStack() as app:
        app.enter_context(held(folder))
        looks = []

        def pause():
            looks.append(told(folder, ended=False).problem)
            if len(looks) == 3:
                leave(folder)
                app.close()

        assert await_app(folder, pause=pause)
    assert len(looks) == 3
    assert all("the run first has no report yet: it was stopped" in look for look in looks)
    assert told(folder).problem == (
        "the run first interrupted: planted\nonce that is put right, go on with the same command and --resume"
    )


def test_an_app_that_has_written_its_report_before_the_stop_is_not_waited_for(folder):
    leave(folder, "failed")
    assert await_app(folder, pause=pytest.fail)
    assert told(folder).problem.startswith("the run first failed: planted\n")
    leave(folder, "completed")
    assert told(folder) == Outcome(problem="", status=0)


def test_an_app_that_does_not_end_is_not_waited_for_longer_than_that(folder):
    with held(folder):
        assert not await_app(folder, timeout=0.0)
    said = told(folder, ended=False)
    assert said.problem.startswith(
        "the run first has no report yet: it was stopped; its app has not come to its end yet, and will leave its "
        f"report in {folder}\n"
    )
    assert said.status == 1
    assert await_app(folder / "none", pause=pytest.fail)


def test_a_report_from_before_says_nothing_of_a_run(folder):
    leave(folder)
    before = (STARTED - timedelta(hours=1)).timestamp()
    os.utime(folder / "report.json", (before, before))
    assert "ended without a report: it was stopped\n" in told(folder).problem


@pytest.mark.parametrize("damaged", ["{", "[]", '{"status": "completed"}'])
def test_what_is_no_report_is_none(folder, damaged):
    (folder / "report.json").write_text(damaged)
    assert "ended without a report: planted\n" in told(folder, RAISED).problem


def test_a_run_that_left_nothing_did_not_begin(folder):
    (folder / "config.toml").unlink()
    assert told(folder, RAISED) == Outcome(
        problem="the run first did not begin: planted\nits name is free for the same command", status=1
    )


@pytest.mark.parametrize("nothing", ["", "N/A", "None", "ServerApp failed with exception: "])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("finished:stopped", "it was stopped"),
        ("finished:completed", "its app came to its end and wrote none"),
        ("finished:failed", "Flower gives no reason (finished:failed)"),
    ],
)
def test_where_flower_has_nothing_to_say_a_person_reads_words(folder, status, nothing, words):
    said = told(folder, Ending(status=status, details=nothing)).problem
    assert said == f"the run first ended without a report: {words}\ngo on with the same command and --resume"


def looked(states):
    """Say what is found of an app that holds its folder, or not, at one look after another, and how many there were."""
    taken = []

    def held():
        taken.append(states[len(taken)])
        return taken[-1]

    return app_is_gone(held, pause=lambda: None, over=lambda: len(taken) == len(states)), len(taken)


def test_an_app_that_lets_go_of_its_folder_and_is_not_called_ended_is_gone():
    assert looked([False] * 9 + [True] * 3 + [False] * 9) == (True, 18)


@pytest.mark.parametrize(
    "states",
    [
        [False] * 20,  # one that has not begun, or holds none
        [True] * 20,
        [True] + [False] * 5,  # Flower has learned of its end
        [True, False, False, False, True, False, False, False],  # it was looked at, or is started again
    ],
)
def test_others_are_not(states):
    assert looked(states) == (False, len(states))


def test_a_person_is_told_that_an_app_is_gone(folder):
    said = told(folder, Ending(status="finished:stopped", details=GONE)).problem
    assert said.startswith("the run first ended without a report: its app ended without a word, as one that is killed")
