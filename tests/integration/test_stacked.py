"""Clients that train at once, in whole runs of the command."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.integration.modes import RECORD, SUMMED
from tests.integration.test_resume import checkpoints, kill_group, wait_for

SETTINGS = {
    "federation.clients": 10,
    "federation.cohort": 9,
    "federation.rounds": 4,
    "data.source": "digits",
    "data.max_records": 400,
    "data.partition.kind": "dirichlet",
    "task.model": "mlp",
    "privacy.mode": "none",
    "privacy.sampling_rate": "",
    "training.local_steps": "",
    "training.learning_rate": 0.1,
    "training.batch_size": 8,
    "training.local_epochs": 2.0,
    "training.momentum": 0.5,
    "device": "cpu",
    "output.screen": "plain",
}
ARGUMENTS = [each for key, value in SETTINGS.items() for each in ("--set", f"{key}={value}")]


def settings(*given):
    return [each for value in given for each in ("--set", value)]


@pytest.fixture(scope="module")
def alone(cli, tmp_path_factory):
    return cli.run(*ARGUMENTS, out=tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def stacked(cli, tmp_path_factory):
    outcome = cli.run(*ARGUMENTS, *settings("training.stacked=5"), out=tmp_path_factory.mktemp("stacked") / "run")
    assert outcome.status == 0, outcome.stderr
    return outcome


def weights(outcome):
    return load_file(outcome.out / "model-final.safetensors")


def test_a_run_comes_to_the_same_model_but_for_rounding(alone, stacked):
    assert stacked.model() != alone.model()  # or nothing was stacked
    for name, value in weights(alone).items():
        np.testing.assert_allclose(weights(stacked)[name], value, rtol=1e-3, atol=1e-4)
    assert stacked.report["config"]["training.stacked"] == 5
    assert "warning" not in stacked.stdout + stacked.stderr
    mine, right = ((each.out / "metrics.jsonl").read_text().splitlines() for each in (stacked, alone))
    assert len(mine) == len(right) == 5
    for one, other in zip(map(json.loads, mine), map(json.loads, right), strict=True):
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.01)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_does_not_change_a_bit(cli, stacked, tmp_path, workers):
    outcome = cli.run(*ARGUMENTS, *settings("training.stacked=5"), "--workers", workers, out=tmp_path / "run")
    assert outcome.model() == stacked.model()


def test_a_run_that_was_killed_goes_on_to_the_same_bits(cli, stacked, tmp_path):
    arguments = [*ARGUMENTS, *settings("training.stacked=5")]
    process = cli.begin("simulate", *arguments, "--out", tmp_path / "run")
    wait_for(lambda: len(checkpoints(tmp_path / "run")) > 1, process)
    kill_group(process)
    outcome = cli.run(*arguments, "--resume", out=tmp_path / "run")
    assert outcome.status == 0, outcome.stderr
    assert outcome.model() == stacked.model()


def test_updates_are_sealed_and_summed_as_those_of_clients_alone(cli, tmp_path):
    sums = settings(*SUMMED)
    right = cli.run(*ARGUMENTS, *sums, out=tmp_path / "alone")
    first, second = (
        cli.run(*ARGUMENTS, *sums, *settings("training.stacked=5"), "--workers", workers, out=tmp_path / f"{workers}")
        for workers in (1, 2)
    )
    assert first.status == 0, first.stderr
    assert all(entry["sealed"] and entry["secagg"] for entry in first.report["round_log"])
    assert first.model() == second.model() != right.model()
    for name, value in weights(right).items():
        np.testing.assert_allclose(weights(first)[name], value, atol=5e-3)  # numbers of a sum are on a grid


OWN = """
import torch
from torch import nn
from torch.nn import functional

from fedtrain.tasks import ClassificationMetrics, Task


class {name}(Task):
    def __init__(self, info):
        self.info = info

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), {layers})

    def collate(self, records, generator):
        if len(self.info.classes) and {bad}:
            raise ValueError("a planted record")
        return {{"inputs": records.features / 16, "targets": records.targets}}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(10)
"""


def test_a_client_that_fails_takes_nobody_with_it(cli, tmp_path):
    # One of the clients has the digit 9 alone. The batches of the trial are smaller.
    bad = "len(records) == 8 and bool((records.targets == 9).all())"
    (tmp_path / "own_failing.py").write_text(OWN.format(name="Failing", layers="", bad=bad))
    arguments = [
        *ARGUMENTS,
        *settings(
            "training.stacked=8", "task.name=own_failing:Failing", "task.model=", "data.partition.kind=pathological"
        ),
        *settings("data.partition.classes_per_client=1"),
    ]
    outcome = cli.run(*arguments, out=tmp_path / "run", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    log = outcome.report["round_log"]
    failed = {drop["client"]: drop["reason"] for entry in log for drop in entry["dropped"]}
    assert len(failed) == 1
    assert "a planted record" in next(iter(failed.values()))
    for entry in log:
        assert sorted(entry["completed"]) == sorted(set(entry["cohort"]) - set(failed))


def test_a_task_may_hold_what_belongs_to_one_thread(cli, tmp_path):
    code = OWN.format(name="Reading", layers="", bad='self.base.execute("select 0").fetchone()[0]')
    held = "        self.base = sqlite3.connect(':memory:')\n\n    def model"
    (tmp_path / "own_reading.py").write_text("import sqlite3\n" + code.replace("\n    def model", held, 1))
    arguments = [*ARGUMENTS, *settings("task.name=own_reading:Reading", "task.model=", "training.stacked=5")]
    outcome = cli.run(*arguments, out=tmp_path / "run", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert not any(entry["dropped"] for entry in outcome.report["round_log"])


def test_a_model_that_cannot_be_stacked_says_so_and_trains_as_without(cli, tmp_path):
    (tmp_path / "own_dropping.py").write_text(OWN.format(name="Dropping", layers="nn.Dropout(0.2)", bad="False"))
    arguments = [*ARGUMENTS, *settings("task.name=own_dropping:Dropping", "task.model=")]
    plain = cli.run(*arguments, out=tmp_path / "plain", cwd=tmp_path)
    outcome = cli.run(*arguments, *settings("training.stacked=5"), out=tmp_path / "run", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    said = "training.stacked has no effect, and clients train one after another: it draws at random"
    assert said in outcome.stdout + outcome.stderr
    assert any(said in warning for warning in outcome.report["warnings"])
    assert outcome.model() == plain.model()


def test_private_clients_are_never_stacked(cli, tmp_path):
    outcome = cli.run(*ARGUMENTS, *settings("training.stacked=5", *RECORD), out=tmp_path / "run")
    assert outcome.status == 2
    assert 'training.stacked = 5 is for privacy.mode = "none"' in outcome.stderr
    assert not (tmp_path / "run").exists()
