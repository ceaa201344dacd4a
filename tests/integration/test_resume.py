"""A run that is stopped in any way goes on to the very same model."""

import contextlib
import json
import os
import random
import shutil
import signal
import time

import pytest


def kill_group(process, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.communicate(timeout=300)


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run did not get there"
        time.sleep(0.01)


def spending(report):
    """Return what a report claims, without what names this run and its keys."""
    privacy = report["privacy"]
    events = [(event["client"], event["round"], event["steps"]) for event in privacy["events"]]
    return events, privacy["curve"], privacy["epsilon"], privacy["mechanism"]


def checkpoints(out):
    return sorted((out / "checkpoints").glob("round-*.safetensors"))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_does_not_change_the_model(cli, short, short_arguments, tmp_path, workers):
    outcome = cli.run(*short_arguments, "--workers", workers, out=tmp_path / "run")
    assert outcome.status == 0, outcome.stderr
    assert outcome.model() == short.model()
    assert outcome.model("best") == short.model("best")


def test_another_seed_does(cli, short, short_arguments, tmp_path):
    outcome = cli.run(*short_arguments, "--set", "seed=2", out=tmp_path / "run")
    assert outcome.model() != short.model()


@pytest.mark.slow
def test_a_run_killed_at_any_time_continues_to_the_same_model(cli, short, short_arguments, tmp_path):
    out, draw = tmp_path / "run", random.Random(0)
    kills = 0
    for target in (1, 2, 4, 5):
        process = cli.begin("simulate", *short_arguments, "--out", out, "--resume")
        wait_for(
            lambda target=target: len(checkpoints(out)) and checkpoints(out)[-1].name >= f"round-{target:06d}", process
        )
        time.sleep(draw.uniform(0, 0.15))
        if process.poll() is None:
            kills += 1
        kill_group(process)
    outcome = cli.run(*short_arguments, "--resume", out=out)
    assert kills > 0
    assert outcome.status == 0, outcome.stderr
    assert outcome.model() == short.model()
    assert outcome.model("best") == short.model("best")
    mine, reference = outcome.report, short.report
    assert mine["evaluation"] == reference["evaluation"]
    assert spending(mine) == spending(reference)
    assert (out / "metrics.jsonl").read_text() == (short.out / "metrics.jsonl").read_text()


def test_ctrl_c_saves_and_says_how_to_resume(cli, short, short_arguments, tmp_path):
    out = tmp_path / "run"
    process = cli.begin("simulate", *short_arguments, "--out", out)
    wait_for(lambda: checkpoints(out), process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert f"--out {out} --resume" in stdout
    assert "interrupted" not in stderr  # it was said once
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert 1 <= report["rounds"] < 6
    outcome = cli.run(*short_arguments, "--resume", out=out)
    assert outcome.status == 0, outcome.stderr
    assert outcome.model() == short.model()


def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing(cli, short, short_arguments, tmp_path):
    before, out = short.model(), tmp_path / "run"
    shutil.copytree(short.out, out)
    again = cli.run(*short_arguments, out=out)
    assert again.status == 2
    assert "holds a run already" in again.stderr
    resumed = cli.run(*short_arguments, "--resume", out=out)
    assert resumed.status == 0, resumed.stderr
    assert resumed.model() == before


def test_a_run_is_not_resumed_with_another_configuration(cli, short, short_arguments, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(short.out, out)
    outcome = cli.run(*short_arguments, "--resume", "--set", "privacy.clip_norm=2.0", out=out)
    assert outcome.status == 2
    assert "privacy.clip_norm was 1.0 and is 2.0" in outcome.stderr
