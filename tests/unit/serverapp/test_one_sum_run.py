"""Whole runs of one round: least squares and statistics, from the records to the audit."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedtrain import ClassTarget, Columns, DataInfo, DataStore, Experiment, Split, audit_report, load_run, simulate
from fedtrain.data.types import Image
from fedtrain.errors import UsageError
from fedtrain.ledger.budget import budget_rows
from fedtrain.privacy.mechanisms import mechanism_of_plan, read_plan
from fedtrain.report.inputs import inputs_of
from fedtrain.report.model_card import model_card
from fedtrain.serverapp.run import run_experiment
from fedtrain.tasks import build_task
from fedtrain.tasks.least_squares import with_solver
from tests.fakes import digits_experiment, federation, private_experiment

ONE_SUM = {
    "federation__rounds": 1,
    "federation__cohort": 4,
    "training__local_steps": "",
    "training__batch_size": 100,
    "privacy__sampling_rate": 1.0,
    "privacy__epsilon": 30.0,
    "output__screen": "none",
}


def audited(path):
    verdict = audit_report(path, roster=path / "roster.json")
    assert [f"{check.name}: {check.detail}" for check in verdict.checks if check.status == "fails"] == []
    return load_run(path)


SHARED = {"privacy__trust": "distributed", "privacy__colluders": 1, "transport__secagg__enabled": True}


@pytest.fixture(scope="module", params=[{}, SHARED], ids=["local", "shared"])
def fitted(request, cache, tmp_path_factory):
    experiment = private_experiment(
        cache,
        **ONE_SUM,
        **request.param,
        training__solver="least-squares",
        training__feature_norm=6.0,
        output__directory=str(tmp_path_factory.mktemp("fitted") / "run"),
    )
    return audited(run_experiment(federation(experiment), experiment))


def test_least_squares_fits_a_linear_layer_in_one_round_that_is_charged_and_audited(fitted):
    report = fitted.report
    assert (report.status, report.rounds) == ("completed", 1)
    assert report.evaluation.history[0].accuracy < 0.2
    assert report.evaluation.final.accuracy > 0.75
    assert report.evaluation.final.loss < report.evaluation.history[0].loss
    assert {(event.steps, event.sampling_rate) for event in report.privacy.events} == {(1, 1.0)}
    assert [row.rounds for row in budget_rows(fitted.path)] == [1, 1, 1, 1]
    saved = load_file(fitted.path / "model-final.safetensors")
    assert {name: value.shape for name, value in saved.items()} == {"linear.weight": (10, 64), "linear.bias": (10,)}


def test_the_saved_layer_is_what_was_measured_and_follows_from_the_sums(fitted):
    saved = load_file(fitted.path / "model-final.safetensors")
    assert torch.equal(fitted.model().linear.weight, torch.from_numpy(saved["linear.weight"]))
    sums = load_file(fitted.path / "model-sums.safetensors")
    assert fitted.report.model.parameters == sums["weight"].size == 65 * 66 // 2 + 65 * 10
    # The page counts what was sent, and does not call it the model's.
    page = (fitted.path / "report.html").read_text()
    assert "model fitted from 2,795 sums" in page
    assert '<th scope="row">sums that it is fitted from</th><td>2,795</td>' in page
    experiment = Experiment.load(fitted.path / "config.toml")
    info = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=fitted.report.data.classes))
    named = {"audited": "", "digest": "0" * 64, "weights": "model.safetensors", "which": "final", "network": None}
    card = model_card(fitted.report, inputs_of(experiment, info), **named)
    assert "It is fitted in closed form from 2,795 sums over the records." in card
    task = with_solver(build_task(experiment.task, info), experiment, info)
    plan = read_plan(fitted.report.privacy.mechanism.plan)
    again = task.solve(sums, noise=mechanism_of_plan(plan).deviation(plan, 4))
    for name, value in saved.items():
        assert np.allclose(again[name], value, atol=1e-6)


def test_a_run_of_another_task_has_no_statistics(fitted):
    with pytest.raises(UsageError, match=r'no run of task\.name = "statistics"'):
        fitted.statistics()


@pytest.fixture(scope="module")
def people():
    """Records of two columns and a class, and a few test records."""
    drawn = np.random.default_rng(0)
    table = np.column_stack([drawn.uniform(20, 60, 600), drawn.normal(40, 5, 600)]).astype(np.float32)
    classes = (table[:, 0] > 40).astype(np.int64)
    info = DataInfo(features=Columns(shape=(2,), names=("age", "hours")), target=ClassTarget(names=("young", "old")))
    return DataStore(
        info=info,
        train=Split(features=table[:560], targets=classes[:560]),
        test=Split(features=table[560:], targets=classes[560:]),
    )


def statistics_of(people, path, **settings):
    experiment = Experiment.from_dict(
        {
            "federation": {"clients": 4, "cohort": 4, "rounds": 1},
            "task": {"name": "statistics", "columns": ["age: 0 to 100", "hours: 0 to 80"], "bins": 10},
            "training": {"batch_size": 140},
            "privacy": {"mode": "record", "sampling_rate": 1.0, "epsilon": 30.0, "delta": 1e-3},
            "output": {"screen": "none"},
        }
        | settings
    )
    return simulate(experiment, data=people, out=path, workers=1)


def test_statistics_are_within_their_intervals_charged_and_audited(people, tmp_path):
    run = statistics_of(people, tmp_path / "run")
    audited(run.path)
    assert [text for text in run.report.warnings if "measured" in text] == []
    found = run.statistics()
    table = people.train.features

    def near(estimate, exact):
        assert estimate.error > 0
        assert abs(estimate.value - exact) < 5 * estimate.error

    near(found.count, 560)
    for at, column in enumerate(found.columns):
        near(column.mean, table[:, at].mean())
        near(column.variance, table[:, at].var())
        assert abs(column.quantile(0.5) - np.median(table[:, at])) < 12
    for estimate, exact in zip(found.classes, np.bincount(people.train.targets), strict=True):
        near(estimate, exact)


def test_an_interval_is_as_wide_as_the_noise_of_all_clients(people, tmp_path):
    parts = 1 + 2 * 3 + 1
    run = statistics_of(people, tmp_path / "run")
    noise = run.report.privacy.mechanism.noise_multiplier
    assert run.statistics().count.error == pytest.approx(noise * np.sqrt(4 * parts), rel=0.01)
    # Of four shares, two are counted on: three survivors less one colluder.
    shared = statistics_of(people, tmp_path / "shared", **{"privacy.trust": "distributed", "privacy.colluders": 1})
    audited(shared.path)
    noise = shared.report.privacy.mechanism.noise_multiplier
    assert shared.statistics().count.error == pytest.approx(noise * np.sqrt(parts * 4 / 2), rel=0.02)
    assert abs(shared.statistics().count.value - 560) < 5 * shared.statistics().count.error


def test_what_least_squares_cannot_fit_is_said_before_anything_is_spent(cache, tmp_path):
    experiment = digits_experiment(cache, **{**ONE_SUM, "output__directory": str(tmp_path / "run")}, **NUMBER)
    with pytest.raises(UsageError):
        run_experiment(federation(experiment), experiment)
    assert not (tmp_path / "run" / "clients").exists()


NUMBER = {
    "privacy__mode": "record",
    "privacy__delta": 1e-3,
    "training__solver": "least-squares",
    "task__name": "regression",
}
