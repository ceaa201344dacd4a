"""Measurements of numbers and of sets of labels, against scikit-learn."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from fedtrain.errors import TaskError
from fedtrain.tasks import MultilabelMetrics, RegressionMetrics


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
def test_nothing_measured_is_refused(metrics):
    metrics.update(
        torch.empty(0, 1), {"targets": torch.empty(0, *((1,) if metrics.described[0].name == "auroc" else ()))}
    )
    with pytest.raises(TaskError, match="no test record was evaluated"):
        metrics.compute()
