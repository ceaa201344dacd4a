import pytest
from pydantic import ValidationError

from fedtrain.report import Best, Evaluation, Evaluations, Metric, Report, best_of
from fedtrain.report.evaluation import CLASSIFICATION
from fedtrain.report.html import headline, render_html
from fedtrain.report.numbers import measured

MAE = Metric(name="mae", direction="lower", format="number")
R2 = Metric(name="r2", direction="higher", format="number")


def history(name, *values):
    return tuple(Evaluation.model_validate({"round": index, name: value}) for index, value in enumerate(values))


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ((), None),
        ((None,), None),
        ((0.0,), (0, 0.0)),
        ((0.1, 0.5, 0.3, 0.5), (1, 0.5)),
        ((None, 0.2, None), (1, 0.2)),
    ],
)
def test_the_best_of_classifiers_is_the_first_of_the_highest(accuracies, best):
    expected = best and Best(round=best[0], accuracy=best[1])
    assert best_of(history("accuracy", *accuracies), CLASSIFICATION) == expected


def test_the_best_goes_by_the_direction_of_the_first_metric():
    assert best_of(history("mae", 2.0, 0.5, 0.5, None), (MAE, R2)) == Best(round=1, value=0.5)
    assert best_of(history("r2", -3.0, -1.0, -2.0), (R2, MAE)) == Best(round=1, value=-1.0)
    assert best_of(history("mae", 2.0), ()) is None


def evaluations(best, *metrics):
    entries = history("mae", 2.0, 0.5)
    return Evaluations(metrics=metrics, final=entries[-1], best=best, history=entries)


def test_a_report_is_held_to_the_best_by_its_metrics():
    assert evaluations(Best(round=1, value=0.5), MAE).best.reached == 0.5
    for wrong in (Best(round=0, value=2.0), Best(round=0, value=0.5), Best(round=1, accuracy=0.5)):
        with pytest.raises(ValidationError, match="not the best of history"):
            evaluations(wrong, MAE)
    with pytest.raises(ValidationError, match="an evaluation of history has the metric mae"):
        evaluations(None, MAE)
    with pytest.raises(ValidationError, match="there is no metric"):
        evaluations(Best(round=1, value=0.5))
    with pytest.raises(ValidationError, match="twice"):
        evaluations(Best(round=1, value=0.5), MAE, MAE)


@pytest.mark.parametrize("fields", [{}, {"accuracy": 0.5, "value": 0.5}])
def test_a_best_has_one_value(fields):
    with pytest.raises(ValidationError, match="either an accuracy or the value"):
        Best(round=1, **fields)


def test_a_classifiers_report_holds_what_it_always_held(build, parse):
    plain = build(rounds=2)
    again = parse(plain).model_dump(mode="json")
    assert again["evaluation"].keys() == {"final", "best", "history"}
    assert again["evaluation"]["best"].keys() == {"round", "accuracy"}
    assert "target" not in again["data"]
    assert Report.model_validate_json(parse(plain).model_dump_json()).evaluation.metrics == CLASSIFICATION


def test_another_metric_is_what_the_page_shows(build, parse):
    plain = build(rounds=2)
    entries = [{"round": 0, "mae": 0.5, "r2": -0.25}, {"round": 1, "mae": 2.0, "r2": 0.123456}]
    plain["evaluation"] = {
        "metrics": [metric.model_dump() for metric in (MAE, R2)],
        "final": entries[-1],
        "best": {"round": 0, "value": 0.5},
        "history": entries,
    }
    plain["data"].update(target="number", classes=[], histogram=None)
    report = parse(plain)
    assert report.model_dump(mode="json")["evaluation"]["best"] == {"round": 0, "value": 0.5}
    page = render_html(report)
    for text in ("MAE on test records", "2.0000", "best 0.5000 in round 0", ">MAE</b>", ">R²</b>", "0.1234"):
        assert text in page
    assert "ccuracy" not in page
    assert headline(evaluations(None)).value == ""


def test_measurements_are_rounded_to_what_is_worse():
    assert measured(0.98765, "higher", "percent") == "98.76 %"
    assert measured(0.123401, "lower", "percent") == "12.3401 %"
    assert measured(-0.00001, "higher", "number") == "-0.0001"
    assert measured(1234.00001, "lower", "number") == "1,234.0001"
    assert measured(1e300, "higher", "number") == "10³⁰⁰"
