"""Whole runs with noise that is correlated over the rounds: what is released, who is asked, and how a run goes on."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedtrain.audit import audit
from fedtrain.errors import BudgetError
from fedtrain.privacy.correlated_noise import CorrelatedNoise
from fedtrain.privacy.mechanisms import mechanism_of
from fedtrain.privacy.noise import open_source
from fedtrain.report import Report
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.run import run_experiment
from fedtrain.trust import Roster
from tests.fakes import NODES, digits_experiment, federation

ROUNDS = 4
BANDED = {
    "privacy__mode": "client",
    "privacy__cohorts": "capped",
    "privacy__mechanism": "banded",
    "privacy__separation": 2,
    "privacy__delta": 1e-2,
    "privacy__clip_norm": 0.5,
    "federation__rounds": ROUNDS,
    "task__model": "linear",
    "output__screen": "none",
}


@pytest.fixture
def make(cache, tmp_path):
    def make(folder="run", **settings):
        return digits_experiment(cache, output__directory=str(tmp_path / folder), **(BANDED | settings))

    return make


@pytest.fixture
def finished(tmp_path):
    def finished(folder="run"):
        report = Report.model_validate_json((tmp_path / folder / "report.json").read_text())
        verdict = audit(report, roster=Roster.read(tmp_path / folder / "roster.json"))
        assert [f"{check.name}: {check.detail}" for check in verdict.checks if check.status == "fails"] == []
        return report, load_file(tmp_path / folder / "model-final.safetensors")

    return finished


def stopping(number, times):
    """Return what stops a run at a training message of a round, after so many were answered."""
    left = [times]

    def before(message):
        if message.content["config"]["server-round"] == number:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

    return before


def test_what_is_released_has_the_noise_of_the_plan(make, finished):
    """Clients that hardly move leave the noise alone: the final model is the first one and the sum of all noise."""
    experiment = make(training__learning_rate=1e-12, server__evaluate_every=ROUNDS)
    start, found = [], federation(experiment, lambda message: start.append(message.content["arrays"]))
    run_experiment(found, experiment)
    _, model = finished()
    plan = mechanism_of(experiment).plan(experiment)
    noise = CorrelatedNoise(2, lambda number: open_source("seeded", derive_seed(experiment.seed, "noise", number)))
    deviation, divisor = plan.value_noise_multiplier * plan.spec.clip_norm, plan.spec.divisor
    cpu = torch.device("cpu")
    moved = {name: array.numpy().astype(float) for name, array in start[0].items()}
    for number in range(1, ROUNDS + 1):
        source = noise(number)
        for name, value in moved.items():
            drawn = source.gaussian(value.shape, std=deviation, device=cpu, dtype=torch.float64)
            moved[name] = value + drawn.numpy() / divisor
    assert deviation == pytest.approx(plan.noise_multiplier * 0.5 * 1.35, rel=0.1)
    for name, value in moved.items():
        assert np.allclose(model[name], value, atol=1e-5)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_nobody_is_asked_again_within_the_separation(make, finished, noise):
    experiment = make(privacy__noise=noise)
    run_experiment(federation(experiment), experiment)
    report, _ = finished()
    assert report.status == "completed"
    rounds = {}
    for entry in report.round_log:
        assert entry.dropped == ()
        for client in entry.cohort:
            rounds.setdefault(client, []).append(entry.round)
    assert all(after - before >= 2 for mine in rounds.values() for before, after in pairwise(mine))
    assert Counter(map(len, rounds.values())).total() == 4
    assert 0 < report.privacy.epsilon <= experiment.privacy.epsilon


@pytest.mark.parametrize(("number", "answered"), [(1, 1), (3, 0), (4, 1)])
def test_a_run_that_is_stopped_goes_on_to_the_very_same_model(make, finished, number, answered):
    whole = make("whole")
    run_experiment(federation(whole), whole)
    expected, model = finished("whole")
    first = make("stopped")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(first, stopping(number, answered)), first)
    again = make("stopped", output__resume=True)
    run_experiment(federation(again), again)
    report, same = finished("stopped")
    assert all(np.array_equal(model[name], same[name]) for name in model)
    assert [client.rounds for client in report.privacy.clients] == [
        client.rounds for client in expected.privacy.clients
    ]
    assert report.privacy.epsilon == expected.privacy.epsilon


def test_with_secure_noise_a_run_that_released_a_round_is_not_resumed(make, finished):
    first = make(privacy__noise="secure")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(first, stopping(3, 1)), first)
    before, _ = finished()
    assert (before.status, before.rounds) == ("interrupted", 2)
    again = make(privacy__noise="secure", output__resume=True)
    with pytest.raises(BudgetError, match=r"2 of 4 rounds are complete, .* memory of the process .* cannot be resumed"):
        run_experiment(federation(again), again)


def test_with_secure_noise_a_first_round_that_was_lost_is_asked_of_others(make, finished):
    secure = {"privacy__noise": "secure", "federation__cohort": 1}
    first = make(**secure)
    grid = federation(first)
    answer, trained = grid._answer, []

    def losing(message):
        reply = answer(message)
        if message.metadata.message_type == "train":
            trained.append(NODES[message.metadata.dst_node_id])
            raise KeyboardInterrupt
        return reply

    grid._answer = losing
    with pytest.raises(KeyboardInterrupt):
        run_experiment(grid, first)
    again = make(**secure, output__resume=True)
    run_experiment(federation(again), again)
    report, _ = finished()
    assert report.status == "completed"
    (lost,) = trained
    assert report.round_log[0].cohort != (lost,)
    assert 1 in report.privacy.clients[lost].rounds


def test_a_finished_run_with_secure_noise_can_be_opened_again(make, finished):
    experiment = make(privacy__noise="secure")
    run_experiment(federation(experiment), experiment)
    before, model = finished()
    again = make(privacy__noise="secure", output__resume=True)
    run_experiment(federation(again), again)
    report, same = finished()
    assert all(np.array_equal(model[name], same[name]) for name in model)
    assert report.privacy.epsilon == before.privacy.epsilon
