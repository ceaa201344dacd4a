from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtrain.tasks import ClassificationMetrics

LOGITS = st.one_of(
    st.floats(-1, 1, width=32), st.floats(-60, 60, width=32), st.sampled_from([0.0, 1.0, -1.0, 30.0, 1e4, -1e4])
)


@st.composite
def batches(draw):
    classes = draw(st.integers(2, 5))
    n = draw(st.integers(1, 30))
    rows = st.lists(LOGITS, min_size=classes, max_size=classes)
    outputs = torch.tensor(draw(st.lists(rows, min_size=n, max_size=n)), dtype=torch.float32)
    labels = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return classes, outputs, labels, [0, *cuts, n]


@given(batches())
@settings(deadline=None, max_examples=150)
def test_batches_of_any_sizes_measure_the_same_as_one(drawn):
    classes, outputs, labels, cuts = drawn
    whole, parts = ClassificationMetrics(classes), ClassificationMetrics(classes)
    whole.update(outputs, {"targets": labels})
    for first, last in pairwise(cuts):
        parts.update(outputs[first:last], {"targets": labels[first:last]})
    one, many = whole.compute(), parts.compute()
    assert many.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-12, abs=1e-15)
    assert many.pop("calibration_error") == pytest.approx(one.pop("calibration_error"), abs=1e-6)
    assert many == one
