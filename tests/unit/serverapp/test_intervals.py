import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedtrain.data import Split
from fedtrain.errors import StorageError
from fedtrain.report import best_of
from fedtrain.serverapp import rounds
from fedtrain.serverapp import run as run_module
from fedtrain.serverapp.evaluation import evaluate
from fedtrain.serverapp.intervals import MOST_GROUPS, SMALLEST_GROUP, Results, results_of, shown_groups
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


def test_a_completed_run_has_results_of_its_last_and_its_best_evaluation(cache, tmp_path):
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
    assert results_of(replace(preparation, task=task_with(preparation, Silent)), state, unread) == Results()


def test_a_measurement_that_is_made_otherwise_is_warned_of(ended, caplog):
    preparation, state = ended
    task = task_with(preparation, Doubled)
    state = replace(state, evaluations=(evaluate(preparation.model, task, preparation.inputs.test, round_number=0),))
    with caplog.at_level(logging.WARNING):
        found = results_of(replace(preparation, task=task), state, unread).intervals
    assert "loss" not in found.final
    assert "accuracy" in found.final
    assert "round 0: loss has no interval" in caplog.text


def test_an_error_leaves_the_intervals_out_and_not_the_report(ended, caplog):
    preparation, state = ended
    with caplog.at_level(logging.WARNING):
        assert results_of(replace(preparation, task=task_with(preparation, Broken)), state, unread) == Results()
    assert "the results have no intervals: resampled of the task's metrics raised" in caplog.text

    def gone():
        raise StorageError("the disk is gone")

    worse = state.evaluations[0].model_copy(update={"round": 1, "accuracy": 0.0})
    two = replace(state, evaluations=(*state.evaluations, worse))
    with caplog.at_level(logging.WARNING):
        assert results_of(preparation, two, gone) == Results()
    assert "the disk is gone" in caplog.text


class Unasked(nn.Linear):
    """A model that is not to be asked."""

    def forward(self, inputs):
        raise AssertionError


def test_what_a_model_returned_is_not_computed_again_and_gives_the_same_intervals(ended):
    preparation, state = ended
    outputs = []
    evaluate(preparation.model, preparation.task, preparation.inputs.test, round_number=0, kept=outputs.append)
    found = results_of(preparation, state, unread).intervals
    silent = replace(preparation, model=Unasked(1, 1))
    assert results_of(silent, state, unread, {0: outputs}).intervals == found
    worse = state.evaluations[0].model_copy(update={"round": 1, "accuracy": 0.0, "loss": 9.0})
    two = replace(state, evaluations=(*state.evaluations, worse))
    both = results_of(silent, two, unread, {0: outputs, 1: outputs}).intervals
    assert both.best == found.final
    assert results_of(silent, two, unread, {0: outputs}) == Results()


def test_outputs_are_kept_as_they_were_in_one_piece_of_memory(monkeypatch):
    monkeypatch.setattr(rounds, "_KEPT", 18)
    outputs = [torch.rand(4, 2), torch.rand(4, 2), torch.rand(1, 2)]
    kept = rounds._Outputs(9)
    for each in outputs:
        kept.add(each)
    assert all(map(torch.equal, kept.parts, outputs))
    assert len({each.untyped_storage().data_ptr() for each in kept.parts}) == 1
    before = outputs[0].clone()
    outputs[0].zero_()
    assert torch.equal(kept.parts[0], before)


@pytest.mark.parametrize(
    "outputs",
    [
        [torch.ones(4, 1)] * 3 + [torch.ones(1, 1)],  # more than are kept
        [torch.ones(4, 1), torch.ones(4, 2), torch.ones(4, 1)],
        [torch.ones(4, 1), torch.ones(4, 1, dtype=torch.float64), torch.ones(4, 1)],
    ],
    ids=["many", "shape", "type"],
)
def test_outputs_that_are_too_many_or_differ_are_not_kept(outputs, monkeypatch):
    monkeypatch.setattr(rounds, "_KEPT", 12)
    kept = rounds._Outputs(sum(map(len, outputs)))
    for each in outputs:
        kept.add(each)
    assert kept.parts == []


def test_the_outputs_of_the_last_and_the_best_evaluation_are_kept(cache, tmp_path, monkeypatch):
    seen = []

    def known(preparation, state, best, outputs):
        seen.append((set(outputs), best_of(state.evaluations, preparation.metrics).round, state.round_number))
        return results_of(preparation, state, best, outputs)

    monkeypatch.setattr(run_module, "results_of", known)
    runner(cache, tmp_path)(kind=digits_experiment)
    ((kept, best, last),) = seen
    assert kept == {best, last}


def grouped(preparation, codes, names):
    """Return a preparation whose test records have groups."""
    codes = np.asarray(codes, dtype=np.int64)
    data = preparation.experiment.data.model_copy(update={"group_column": "site"})
    inputs = replace(preparation.inputs, test=replace(preparation.inputs.test, groups=codes), groups=tuple(names))
    experiment = preparation.experiment.model_copy(update={"data": data})
    return replace(preparation, inputs=inputs, experiment=experiment)


def test_the_results_of_a_group_are_those_of_its_records_alone(ended):
    preparation, state = ended
    test = preparation.inputs.test
    codes = np.arange(len(test)) % 3
    found = results_of(grouped(preparation, codes, ("a", "b", "c")), state, unread).groups
    assert ([group.name for group in found.groups], found.others, found.column) == (["a", "b", "c"], None, "site")
    for code, group in enumerate(found.groups):
        rows = np.flatnonzero(codes == code)
        alone = Split(features=test.features[rows], targets=test.targets[rows])
        expected = evaluate(preparation.model, preparation.task, alone, round_number=0)
        assert group.records == len(rows)
        for name in ("accuracy", "loss", "f1", "auroc"):
            assert group.values[name] == pytest.approx(expected.value(name), abs=1e-6)
        assert group.intervals["loss"].lower < group.values["loss"] < group.intervals["loss"].upper
    assert results_of(preparation, state, unread).groups is None
    assert results_of(grouped(preparation, codes, ("a", "b", "c")), state, unread).groups == found


def test_small_groups_are_measured_together_and_none_can_be_told_from_the_others(ended):
    preparation, state = ended
    count = len(preparation.inputs.test)
    codes = np.where(np.arange(count) < 5, 0, np.where(np.arange(count) < 60, 1, 2))
    found = results_of(grouped(preparation, codes, ("few", "middle", "most")), state, unread).groups
    assert [group.name for group in found.groups] == ["most"]
    assert (found.others.groups, found.others.records) == (2, 60)
    assert "few" not in found.model_dump_json()


@pytest.mark.parametrize(
    ("sizes", "alone", "together"),
    [
        ([50, 50], [0, 1], []),
        ([50, 3], [], [1, 0]),
        ([50, 40, 3], [0], [2, 1]),
        ([50, 12, 11], [0], [1, 2]),
        ([50, 12, 3], [], [1, 2, 0]),
        ([3], [], [0]),
        ([19, 20, 21, 22], [2, 3], [0, 1]),
    ],
)
def test_what_is_together_is_no_single_small_group(sizes, alone, together):
    found, rest = shown_groups(np.array(sizes))
    assert (found, rest) == (alone, together)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=130))
def test_no_small_group_is_left_over_when_what_is_shown_is_taken_from_all(sizes):
    alone, together = shown_groups(np.array(sizes))
    assert sorted((*alone, *together)) == list(range(len(sizes)))
    assert len(alone) <= MOST_GROUPS
    assert all(sizes[code] >= SMALLEST_GROUP for code in alone)
    if alone and together:
        assert len(together) > 1
        assert sum(sizes[code] for code in together) >= SMALLEST_GROUP


def test_the_report_of_a_run_has_the_groups_that_its_test_data_name(cache, tmp_path):
    draws = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 120)):
        age = draws.normal(size=count)
        columns = {"age": age, "label": (age > 0).astype(int), "site": [f"s{row % 3}" for row in range(count)]}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    run = runner(
        cache,
        tmp_path,
        data__source="parquet",
        data__path=str(tmp_path / "train.parquet"),
        data__test_path=str(tmp_path / "test.parquet"),
        data__group_column="site",
        data__max_records=200,
        task__name="tabular",
        training__learning_rate=1.0,
    )
    report, _ = run(kind=digits_experiment)
    groups = report.evaluation.groups
    assert [(group.name, group.records) for group in groups.groups] == [("s0", 40), ("s1", 40), ("s2", 40)]
    together = sum(group.records * group.values["accuracy"] for group in groups.groups) / 120
    assert together == pytest.approx(report.evaluation.final.accuracy)
    assert "By site" in (tmp_path / "run" / "report.html").read_text()
    assert report.data.features == ("age",)
