import pytest

from fedtrain.report import Dropped, Evaluation, Evaluations, Metric, RoundEntry, best_of
from fedtrain.report.evaluation import CLASSIFICATION
from fedtrain.serverapp import result_warnings


def entry(number, completed=(), dropped=(), cohort=None):
    return RoundEntry(
        round=number,
        cohort=cohort or (*completed, *dict(dropped)),
        completed=completed,
        dropped=tuple(Dropped(client=client, reason=reason) for client, reason in dict(dropped).items()),
        sealed=False,
        secagg=None,
        clip_norm=None,
        learning_rate=0.1,
        seconds=0.0,
    )


def test_clients_that_fail_in_every_round_are_said_with_the_first_reason():
    one, other = "Traceback\n  File\nValueError: one record", "no answer"
    log = [entry(1, (0,), {1: one, 2: one, 3: other}), entry(2, (0, 3), {1: other, 2: one}), entry(3, (0,), {4: one})]
    (found,) = result_warnings.of_rounds(log, ("A", "B", "C", "D", "E"))
    assert found == "clients 1 (B), 2 (C) gave no result in any round that asked: ValueError: one record"
    assert len(result_warnings.of_rounds([entry(1, (0,), {1: one})], ())) == 1


def test_ten_thousand_failing_clients_are_said_shortly():
    log = [entry(number, dropped={client: f"reason {client}" for client in range(10_000)}) for number in (1, 2)]
    found = result_warnings.of_rounds(log, ())
    assert len(found) == 4
    assert found[-1].startswith("9,997 more clients gave no result")


def test_secret_cohorts_are_not_told():
    secret = entry(1, dropped={1: "why"}).model_copy(update={"cohort": None, "completed": None, "dropped": None})
    assert result_warnings.of_rounds([secret, secret], ()) == []


def results(*values, baseline=None, metrics=CLASSIFICATION):
    history = tuple(Evaluation.model_validate({"round": index, **value}) for index, value in enumerate(values))
    best = best_of(history, metrics)
    return Evaluations(metrics=metrics, final=history[-1], best=best, history=history, baseline=baseline)


def test_a_model_no_better_than_one_answer_is_said():
    last = {"accuracy": 0.7607, "loss": 0.5, "confusion": ((7607, 0), (2393, 0))}
    (found,) = result_warnings.of_results(
        results({"accuracy": 0.2, "loss": 0.7}, last, baseline={"accuracy": 0.7607}), ("<=50K", ">50K")
    )
    assert found.startswith("accuracy 0.7607 after round 1 is no better than the baseline of 0.7607")
    assert "the model calls each of them <=50K" in found
    better = {"accuracy": 0.77, "loss": 0.5}
    assert result_warnings.of_results(results({"loss": 0.7}, better, baseline={"accuracy": 0.7607}), ("a", "b")) == []


def test_an_error_that_one_answer_reaches_is_said():
    mse = Metric(name="mse", direction="lower", format="number")
    (found,) = result_warnings.of_results(
        results({"mse": 9.0}, {"mse": 4.0}, baseline={"mse": 3.5}, metrics=(mse,)), ()
    )
    assert found.startswith("mse 4.0000 after round 1 is no better than the baseline of 3.5000")
    assert (
        result_warnings.of_results(results({"mse": 9.0}, {"mse": 3.0}, baseline={"mse": 3.5}, metrics=(mse,)), ()) == []
    )


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (2.3026, None, "is not finite after round 1: the training has diverged"),
        (2.3026, 2.3025, "has hardly moved"),
        (2.3026, 9.0, "is higher after round 1 than before"),
        (2.3026, 2.0, None),
        (None, None, "is not finite in 2 evaluations, the first after round 0"),
    ],
)
def test_losses_that_explode_or_stand_still_are_said(first, last, words):
    values = [{"loss": loss, "records": 10} for loss in (first, last)]
    found = result_warnings.of_results(results(*values), ("a", "b"))
    assert [words in one for one in found] == ([True] if words else [])


def test_evaluations_that_failed_are_no_divergence():
    (one,) = result_warnings.of_results(results({"loss": 2.3}, {}), ("a", "b"))
    assert one.startswith("nothing was measured after round 1: the task's metrics failed")
    two, diverged = result_warnings.of_results(results({"loss": 2.3}, {}, {}, {"records": 10}), ("a", "b"))
    assert two.startswith("nothing was measured in 2 evaluations, the first after round 1")
    assert diverged.startswith("the loss on the test records is not finite after round 3")
