import json
import math
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
)
from torch.nn import functional

from fedtrain.errors import TaskError
from fedtrain.tasks import ClassificationMetrics, MultilabelMetrics, RegressionMetrics
from fedtrain.tasks.metrics import Rows
from fedtrain.tasks.ranking import THRESHOLDS


def measured(outputs, labels, classes):
    metrics = ClassificationMetrics(classes)
    metrics.update(outputs, {"targets": labels})
    return metrics.compute()


def records(n, classes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    outputs = torch.randn(n, classes, generator=draw) + 1.5 * functional.one_hot(labels, classes)
    return outputs, labels


def expected_calibration_error(probabilities, labels, bins=15):
    # Guo et al. 2017, equation 3, written out.
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    total = 0.0
    for place in range(bins):
        inside = places == place
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).mean()
            total += inside.mean() * abs(accuracy - confidence[inside].mean())
    return total


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_areas_and_balanced_accuracy_are_those_of_scikit_learn(classes, scale):
    outputs, labels = records(500, classes, seed=2)
    outputs = scale * outputs.double().round(decimals=1)  # with equal ones
    result = measured(outputs, labels, classes)
    true = np.eye(classes, dtype=int)[labels.numpy()]
    scores = outputs.log_softmax(dim=1).numpy() if classes > 2 else np.stack([[1, -1], [-1, 1]]) @ outputs.numpy().T
    scores = scores if classes > 2 else scores.T
    for name, measure in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        each = [measure(true[:, place], scores[:, place]) for place in range(classes)]
        assert result["per_class"][name] == pytest.approx(each, abs=1e-12)
        expected = each[1] if (name, classes) == ("average_precision", 2) else np.mean(each)
        assert result[name] == pytest.approx(expected, abs=1e-12)
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, outputs.argmax(1)), rel=1e-12)


def test_areas_are_means_over_the_classes_that_occur():
    outputs, labels = records(60, 4)
    labels[labels == 2] = 3
    result = measured(outputs, labels, 4)
    for name in ("auroc", "average_precision"):
        each = result["per_class"][name]
        assert each[2] is None
        assert result[name] == pytest.approx((each[0] + each[1] + each[3]) / 3)
    alone = measured(outputs, torch.ones(60, dtype=torch.int64), 4)
    assert alone["auroc"] is alone["average_precision"] is None
    assert alone["per_class"]["auroc"] == [None] * 4
    assert alone["balanced_accuracy"] == alone["per_class"]["recall"][1]


def test_a_predicted_class_without_records_counts_in_the_mean_recall_and_not_in_balanced_accuracy():
    outputs = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2]])
    result = measured(outputs, torch.tensor([0, 1, 1]), 3)
    assert result["balanced_accuracy"] == 0.75
    assert result["recall"] == pytest.approx(0.5)


def test_thresholds_say_what_they_call():
    probabilities = torch.tensor([0.02, 0.15, 0.35, 0.45, 0.75, 0.97], dtype=torch.float64)
    outputs = torch.stack([torch.zeros(6, dtype=torch.float64), torch.logit(probabilities)], dim=1)
    rows = measured(outputs, torch.tensor([0, 0, 1, 0, 1, 1]), 2)["thresholds"]
    assert [row["threshold"] for row in rows] == list(THRESHOLDS)
    assert [row["called"] for row in rows] == [5, 5, 4, 4, 3, 2, 2, 2, 1, 1, 1]
    assert rows[2] == {"threshold": 0.2, "called": 4, "precision": 0.75, "recall": 1.0, "specificity": 2 / 3}
    assert rows[5] == {"threshold": 0.5, "called": 2, "precision": 1.0, "recall": 2 / 3, "specificity": 1.0}
    assert "thresholds" not in measured(*records(20, 3), 3)


def test_areas_of_more_than_a_hundred_classes_are_left_out():
    outputs, labels = records(300, 101)
    result = measured(outputs, labels, 101)
    assert not {"auroc", "average_precision", "thresholds"} & result.keys()
    assert "auroc" not in result["per_class"]
    assert "auroc" not in {metric.name for metric in ClassificationMetrics(101).described}
    assert "auroc" in measured(*records(300, 100), 100)


@pytest.mark.parametrize("classes", [2, 10])
def test_all_measurements_that_are_described_are_measured(classes):
    metrics = ClassificationMetrics(classes)
    assert {metric.name for metric in metrics.described} <= measured(*records(50, classes), classes).keys()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_all_measurements_are_those_of_scikit_learn(classes):
    outputs, labels = records(500, classes)
    result = measured(outputs, labels, classes)
    probabilities = outputs.double().softmax(dim=1).numpy()
    true, predicted, every = labels.numpy(), outputs.argmax(dim=1).numpy(), range(classes)

    assert result["records"] == 500
    assert result["loss"] == pytest.approx(log_loss(true, probabilities, labels=every), rel=1e-9)
    assert result["loss"] == pytest.approx(functional.cross_entropy(outputs, labels).item(), rel=1e-5)
    assert result["accuracy"] == pytest.approx(accuracy_score(true, predicted), rel=1e-12)
    assert result["confusion"] == confusion_matrix(true, predicted, labels=every).tolist()
    single = precision_recall_fscore_support(true, predicted, labels=every, average=None, zero_division=0)
    macro = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    for name, values, mean in zip(("precision", "recall", "f1"), single, macro, strict=False):
        assert result["per_class"][name] == pytest.approx(values.tolist(), rel=1e-12)
        assert result[name] == pytest.approx(mean, rel=1e-12)
    assert result["calibration_error"] == pytest.approx(expected_calibration_error(probabilities, true), abs=1e-6)


@pytest.mark.parametrize(("classes", "cuts"), [(2, []), (10, [1, 500, 501]), (3, [700])])
def test_counts_and_calibration_are_those_of_torchmetrics_bit_for_bit(classes, cuts):
    from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

    outputs, labels = records(1000, classes)
    outputs[:3] *= 1e4  # certain
    outputs[3] = 0  # equal
    metrics = ClassificationMetrics(classes)
    for start, end in pairwise([0, *cuts, 1000]):
        metrics.update(outputs[start:end], {"targets": labels[start:end]})
    result = metrics.compute()
    probabilities = outputs.double().softmax(dim=1).clamp(max=1 - 2.0**-24)
    assert result["confusion"] == multiclass_confusion_matrix(outputs.argmax(1), labels, classes).tolist()
    assert result["calibration_error"] == float(multiclass_calibration_error(probabilities, labels, classes))


def test_the_measurements_are_plain_json():
    result = measured(*records(20, 3), 3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == [
        "loss",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "balanced_accuracy",
        "auroc",
        "average_precision",
        "per_class",
        "confusion",
        "calibration_error",
        "records",
    ]
    assert {type(result[name]) for name in ("loss", "accuracy", "precision", "recall", "f1")} == {float}
    assert type(result["calibration_error"]) is float
    assert type(result["records"]) is int
    assert type(result["confusion"][0][0]) is int


def test_an_absent_class_counts_zero_alone_and_not_in_the_mean():
    # Class 2 has no record and is never predicted; class 3 has none but is predicted once.
    outputs = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 2]])
    result = measured(outputs, torch.tensor([0, 1, 1]), 4)
    assert result["per_class"]["precision"] == [1, 1, 0, 0]
    assert result["per_class"]["recall"] == [1, 0.5, 0, 0]
    assert result["per_class"]["f1"] == pytest.approx([1, 2 / 3, 0, 0])
    assert result["recall"] == pytest.approx(1.5 / 3)
    assert result["confusion"] == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_confident_and_right_is_calibrated_and_confident_and_wrong_is_not():
    outputs = 100 * torch.eye(3)
    assert measured(outputs, torch.tensor([0, 1, 2]), 3)["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert measured(outputs, torch.tensor([1, 2, 0]), 3)["calibration_error"] == pytest.approx(1, abs=1e-6)


def test_a_confidence_of_one_shares_the_last_bin():
    # Right with confidence 0.95 and wrong with 1: in one bin the gap is |0.5 - 0.975|; in two it would be 0.525.
    outputs = torch.tensor([[np.log(0.95 / 0.05), 0.0], [100.0, 0.0]], dtype=torch.float32)
    assert measured(outputs, torch.tensor([0, 1]), 2)["calibration_error"] == pytest.approx(0.475, abs=1e-5)


def test_logits_that_look_like_probabilities_are_logits():
    outputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    confidence = torch.tensor([1.0, 0.0]).softmax(dim=0)[0].item()
    assert measured(outputs, torch.tensor([0, 1]), 2)["calibration_error"] == pytest.approx(1 - confidence, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_give_null(bad):
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[0.0, 1.0]]), {"targets": torch.tensor([1])})
    metrics.update(torch.tensor([[bad, bad]]), {"targets": torch.tensor([1])})
    result = metrics.compute()
    assert result["loss"] is None
    assert result["calibration_error"] is None
    assert result["auroc"] is result["average_precision"] is None
    assert "thresholds" not in result
    assert result["records"] == 2
    json.dumps(result, allow_nan=False)


def test_computing_leaves_the_state_as_it_is():
    metrics = ClassificationMetrics(3)
    outputs, labels = records(30, 3)
    metrics.update(outputs[:20], {"targets": labels[:20]})
    assert metrics.compute() == metrics.compute()
    metrics.update(outputs[20:], {"targets": labels[20:]})
    assert metrics.compute()["records"] == 30
    assert metrics.compute()["confusion"] == measured(outputs, labels, 3)["confusion"]


def test_outputs_may_need_gradients_and_be_of_half_precision():
    outputs, labels = records(16, 3)
    result = measured(outputs.to(torch.bfloat16).requires_grad_(), labels, 3)
    assert result == measured(outputs.to(torch.bfloat16), labels, 3)


def test_nothing_measured_is_refused():
    metrics = ClassificationMetrics(3)
    metrics.update(torch.empty(0, 3), {"targets": torch.empty(0, dtype=torch.int64)})
    with pytest.raises(TaskError, match="no test record was evaluated"):
        metrics.compute()


def test_ten_thousand_records_are_measured_quickly():
    outputs, labels = records(10_000, 10)
    spent = []
    for _ in range(3):
        metrics = ClassificationMetrics(10)
        start = time.thread_time()
        for first in range(0, 10_000, 256):
            metrics.update(outputs[first : first + 256], {"targets": labels[first : first + 256]})
        metrics.compute()
        spent.append(time.thread_time() - start)
    assert min(spent) < 0.3


def in_parts(metrics, outputs, targets, *cuts):
    for first, last in zip((0, *cuts), (*cuts, len(outputs)), strict=True):
        metrics.update(outputs[first:last], {"targets": targets[first:last]})
    return metrics.compute()


@pytest.mark.parametrize("cuts", [(), (1,), (10, 10, 90)])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_numbers_are_measured_as_by_scikit_learn(cuts, offset):
    draw = torch.Generator().manual_seed(0)
    targets = torch.randn(100, generator=draw, dtype=torch.float64) + offset
    outputs = targets[:, None] + torch.randn(100, 1, generator=draw, dtype=torch.float64)
    found = in_parts(RegressionMetrics(), outputs, targets, *cuts)
    assert found["mse"] == found["loss"] == pytest.approx(mean_squared_error(targets, outputs), rel=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(targets, outputs), rel=1e-9)
    assert found["r2"] == pytest.approx(r2_score(targets, outputs), abs=1e-6)
    assert found["records"] == 100


def test_what_is_undefined_of_numbers_is_null():
    assert in_parts(RegressionMetrics(), torch.ones(2, 1), torch.zeros(2))["r2"] is None
    for bad in (math.nan, math.inf):
        found = in_parts(RegressionMetrics(), torch.tensor([[1.0], [bad]]), torch.tensor([1.0, 2.0]), 1)
        assert (found["loss"], found["mse"], found["mae"], found["r2"]) == (None, None, None, None)
        json.dumps(found, allow_nan=False)


def labelled(records=60, labels=3):
    draw = torch.Generator().manual_seed(1)
    targets = torch.randint(2, (records, labels), generator=draw).to(torch.uint8)
    # Rounded, so that some outputs of different records are equal.
    outputs = (4 * (targets + torch.randn(records, labels, generator=draw))).round() / 2
    return outputs, targets


@pytest.mark.parametrize("scale", [1.0, 1e-3, 200.0])
@pytest.mark.parametrize("cuts", [(), (7,), (0, 30)])
def test_labels_are_measured_as_by_scikit_learn(scale, cuts):
    outputs, targets = labelled()
    found = in_parts(MultilabelMetrics(3), scale * outputs, targets, *cuts)
    by_label = {
        "auroc": [roc_auc_score(targets[:, label], outputs[:, label]) for label in range(3)],
        "average_precision": [average_precision_score(targets[:, label], outputs[:, label]) for label in range(3)],
    }
    for name, values in by_label.items():
        assert found["per_label"][name] == pytest.approx(values, abs=1e-6)
        assert found[name] == pytest.approx(np.mean(values), abs=1e-6)
    if scale < 100:
        probabilities = (scale * outputs.double()).sigmoid().numpy()
        losses = [log_loss(targets[:, label], probabilities[:, label]) for label in range(3)]
        assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_label_that_all_or_no_records_have_is_in_no_mean():
    outputs, targets = labelled()
    targets[:, 0], targets[:, 2] = 0, 1
    found = in_parts(MultilabelMetrics(3), outputs, targets)
    assert found["per_label"]["auroc"][0] is found["per_label"]["auroc"][2] is None
    assert found["auroc"] == found["per_label"]["auroc"][1]
    assert found["average_precision"] == found["per_label"]["average_precision"][1]
    nothing = in_parts(MultilabelMetrics(1), outputs[:, :1], targets[:, :1])
    assert nothing["auroc"] is nothing["average_precision"] is None
    assert nothing["loss"] > 0


def test_labels_of_outputs_that_are_not_finite_are_not_measured():
    outputs, targets = labelled()
    outputs[3, 1] = math.nan
    found = in_parts(MultilabelMetrics(3), outputs, targets)
    assert found["loss"] is found["auroc"] is found["average_precision"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("metrics", [RegressionMetrics(), MultilabelMetrics(1)])
def test_nothing_measured_of_numbers_and_labels_is_refused(metrics):
    metrics.update(
        torch.empty(0, 1), {"targets": torch.empty(0, *((1,) if metrics.described[0].name == "auroc" else ()))}
    )
    with pytest.raises(TaskError, match="no test record was evaluated"):
        metrics.compute()


def computed(metrics, outputs, targets):
    metrics.update(outputs, {"targets": targets})
    return metrics.compute()


def test_a_baseline_is_what_the_metrics_give_to_one_answer():
    targets = torch.tensor([0, 2, 2, 1, 2, 2, 0])
    shares = torch.bincount(targets) / len(targets)
    found = computed(ClassificationMetrics(3), shares.log().expand(len(targets), -1), targets)
    names = ("accuracy", "loss", "balanced_accuracy", "auroc")
    expected = {name: found[name] for name in names} | {"average_precision": 1 / 3}
    assert ClassificationMetrics(3).baseline(targets) == pytest.approx(expected)


def test_a_baseline_of_two_classes_has_the_share_of_the_second_as_average_precision():
    targets = torch.tensor([0, 1, 0, 0, 0])
    found = computed(ClassificationMetrics(2), torch.zeros(5, 2), targets)
    assert found["average_precision"] == pytest.approx(0.2)
    assert ClassificationMetrics(2).baseline(targets)["average_precision"] == pytest.approx(0.2)
    assert set(ClassificationMetrics(2).baseline(torch.zeros(3, dtype=torch.int64))) == {
        "accuracy",
        "balanced_accuracy",
        "loss",
    }


def test_a_baseline_of_numbers_is_their_mean_and_for_mae_their_median():
    targets = torch.tensor([1.0, 2.0, 4.0, 100.0])
    mean = computed(RegressionMetrics(), targets.mean().expand(4, 1), targets)
    median = computed(RegressionMetrics(), torch.full((4, 1), 3.0), targets)
    expected = {**{name: mean[name] for name in ("mse", "loss", "r2")}, "mae": median["mae"]}
    assert RegressionMetrics().baseline(targets) == pytest.approx(expected, abs=1e-9)
    assert RegressionMetrics().baseline(torch.ones(3)) == {"mse": 0, "mae": 0, "loss": 0}


def test_a_baseline_of_labels_is_the_frequency_of_each():
    targets = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 1]], dtype=torch.uint8)
    shares = targets.double().mean(0).clamp(1e-12, 1)
    found = computed(MultilabelMetrics(3), torch.logit(shares).expand(4, -1), targets)
    names = ("auroc", "average_precision", "loss")
    assert MultilabelMetrics(3).baseline(targets) == pytest.approx({name: found[name] for name in names}, abs=1e-9)
    assert set(MultilabelMetrics(1).baseline(torch.ones((3, 1)))) == {"loss"}


def test_rows_are_those_that_came_in_one_piece_of_memory():
    parts = [torch.rand(size, 3) for size in (2, 0, 5, 1, 40)]
    rows = Rows()
    for part in parts:
        rows.add(part)
    assert torch.equal(rows.all(), torch.cat(parts))
    assert len(rows) == 48
    parts[0].zero_()
    assert rows.all()[0].all()


def test_rows_of_another_type_are_kept_as_one_that_holds_both_and_of_another_shape_refused():
    rows = Rows()
    rows.add(torch.ones(2, dtype=torch.int64))
    rows.add(torch.tensor([0.5], dtype=torch.float64))
    assert rows.all().tolist() == [1.0, 1.0, 0.5]
    with pytest.raises(ValueError, match=r"rows of shape \(2,\) came after such of \(\)"):
        rows.add(torch.ones(1, 2))
