import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedtrain.errors import StorageError
from fedtrain.report import best_of
from fedtrain.serverapp import rounds
from fedtrain.serverapp import run as run_module
from fedtrain.serverapp.evaluation import evaluate
from fedtrain.serverapp.intervals import intervals_of
from fedtrain.serverapp.rounds import initial_state
from fedtrain.tasks import ClassificationMetrics
from fedtrain.tasks.supervised import Vision
from tests.fakes import digits_experiment, federation
from tests.runs import runner


@pytest.fixture
def ended(plain):
    """Give a preparation, and the state of a run of it that was evaluated."""
    state = initial_state(plain)
    evaluation = evaluate(plain.model, plain.task, plain.inputs.test, round_number=0)
    return plain, replace(state, evaluations=(evaluation,))


def unread():
    raise AssertionError


def test_a_completed_run_has_intervals_of_its_last_and_its_best_evaluation(cache, tmp_path):
    # The last round takes steps that are far too long.
    late = {
        "training__learning_rate": 1.0,
        "training__schedule": "step",
        "training__step_rounds": 2,
        "training__step_factor": 1000.0,
    }
    run = runner(cache, tmp_path, **late)
    report, _ = run(kind=digits_experiment)
    evaluations = report.evaluation
    assert evaluations.best.round < evaluations.final.round
    found = evaluations.intervals
    best = next(each for each in evaluations.history if each.round == evaluations.best.round)
    for evaluation, intervals in ((evaluations.final, found.final), (best, found.best)):
        assert {"accuracy", "loss", "f1"} <= set(intervals)
        for name, interval in intervals.items():
            assert interval.lower <= evaluation.value(name) <= interval.upper
    again, _ = run("again", kind=digits_experiment)
    assert again.evaluation.intervals == found


def test_what_is_measured_of_records_is_not_in_the_run_folder(cache, tmp_path):
    runner(cache, tmp_path)(kind=digits_experiment)
    names = {file.name for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert not {name for name in names if "outcome" in name or "interval" in name}


def test_a_run_that_did_not_complete_has_none(cache, tmp_path):
    def broken(experiment):
        def before(message):
            if message.content["config"]["server-round"] == 2:
                raise KeyboardInterrupt

        return federation(experiment, before)

    with pytest.raises(KeyboardInterrupt):
        runner(cache, tmp_path)(kind=digits_experiment, grid=broken)
    assert '"intervals"' not in (tmp_path / "run" / "report.json").read_text()


class Silent:
    """Metrics that say nothing of single records."""

    def __init__(self, classes):
        self._inner = ClassificationMetrics(classes)
        self.described, self.update, self.compute = self._inner.described, self._inner.update, self._inner.compute


class Doubled(ClassificationMetrics):
    """Metrics that inherit what their measurements are made of, and measure otherwise."""

    def compute(self):
        found = super().compute()
        return found | {"loss": 2 * found["loss"]}


class Broken(ClassificationMetrics):
    def resampled(self, outcomes, counts):
        raise ZeroDivisionError


def task_with(preparation, metrics):
    class Measured(Vision):
        def metrics(self):
            return metrics(self.outputs)

    return Measured(preparation.experiment.task, preparation.inputs.info)


def test_metrics_that_say_nothing_of_records_have_no_intervals(ended):
    preparation, state = ended
    assert intervals_of(replace(preparation, task=task_with(preparation, Silent)), state, unread) is None


def test_a_measurement_that_is_made_otherwise_is_warned_of(ended, caplog):
    preparation, state = ended
    task = task_with(preparation, Doubled)
    state = replace(state, evaluations=(evaluate(preparation.model, task, preparation.inputs.test, round_number=0),))
    with caplog.at_level(logging.WARNING):
        found = intervals_of(replace(preparation, task=task), state, unread)
    assert "loss" not in found.final
    assert "accuracy" in found.final
    assert "round 0: loss has no interval" in caplog.text


def test_an_error_leaves_the_intervals_out_and_not_the_report(ended, caplog):
    preparation, state = ended
    with caplog.at_level(logging.WARNING):
        assert intervals_of(replace(preparation, task=task_with(preparation, Broken)), state, unread) is None
    assert "the results have no intervals: outcomes or resampled of the task's metrics raised" in caplog.text

    def gone():
        raise StorageError("the disk is gone")

    worse = state.evaluations[0].model_copy(update={"round": 1, "accuracy": 0.0})
    two = replace(state, evaluations=(*state.evaluations, worse))
    with caplog.at_level(logging.WARNING):
        assert intervals_of(preparation, two, gone) is None
    assert "the disk is gone" in caplog.text


class Unasked(nn.Linear):
    """A model that is not to be asked."""

    def forward(self, inputs):
        raise AssertionError


def test_what_a_model_returned_is_not_computed_again_and_gives_the_same_intervals(ended):
    preparation, state = ended
    outputs = []
    evaluate(preparation.model, preparation.task, preparation.inputs.test, round_number=0, kept=outputs.append)
    found = intervals_of(preparation, state, unread)
    silent = replace(preparation, model=Unasked(1, 1))
    assert intervals_of(silent, state, unread, {0: outputs}) == found
    worse = state.evaluations[0].model_copy(update={"round": 1, "accuracy": 0.0, "loss": 9.0})
    two = replace(state, evaluations=(*state.evaluations, worse))
    both = intervals_of(silent, two, unread, {0: outputs, 1: outputs})
    assert both.best == found.final
    assert intervals_of(silent, two, unread, {0: outputs}) is None


def test_outputs_that_are_too_many_are_not_kept(monkeypatch):
    monkeypatch.setattr(rounds, "_KEPT", 12)
    kept = rounds._Outputs()
    for _ in range(3):
        kept.add(torch.ones(4, 1))
    assert [each.tolist() for each in kept.parts] == [[[1.0]] * 4] * 3
    kept.add(torch.ones(1, 1))
    kept.add(torch.ones(0, 1))
    assert kept.parts == []


def test_the_outputs_of_the_last_and_the_best_evaluation_are_kept(cache, tmp_path, monkeypatch):
    seen = []

    def known(preparation, state, best, outputs):
        seen.append((set(outputs), best_of(state.evaluations, preparation.metrics).round, state.round_number))
        return intervals_of(preparation, state, best, outputs)

    monkeypatch.setattr(run_module, "intervals_of", known)
    runner(cache, tmp_path)(kind=digits_experiment)
    ((kept, best, last),) = seen
    assert kept == {best, last}
