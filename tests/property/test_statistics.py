from math import sqrt

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedtrain.statistics import ClassCode, Column, ColumnLayout, LabelsCode, MomentLayout, NumberCode
from fedtrain.statistics.estimates import monotone
from fedtrain.statistics.moments import symmetric, upper_triangle

ROUNDING = 1e-6  # of a norm in single precision

any_numbers = st.floats(width=32)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tables = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.one_of(any_numbers, st.floats(-2, 2, width=32)),
)
shares = st.floats(0.01, 0.99)


@given(tables, st.floats(1e-3, 1e3), shares, shares, st.integers(2, 5), st.randoms(use_true_random=False))
def test_no_record_is_longer_than_one_in_the_moments(table, radius, constant, gram, classes, random):
    layout = MomentLayout(inputs=table.shape[1], targets=classes, radius=radius, constant=constant, gram=gram)
    drawn = torch.tensor([random.randrange(classes) for _ in table])
    codes = (
        ClassCode(columns=classes).encode(drawn, torch.float32),
        LabelsCode(columns=classes).encode(torch.nn.functional.one_hot(drawn, classes), torch.float32),
    )
    for targets in codes:
        augmented = layout.augmented(torch.from_numpy(table))
        assert float(torch.linalg.vector_norm(augmented, dim=1).max()) <= 1 + ROUNDING
        assert float(torch.linalg.vector_norm(layout.vectors(augmented, targets), dim=1).max()) <= 1 + ROUNDING


@given(st.integers(1, 8), shares, shares, st.integers(2, 5))
def test_a_record_at_the_bounds_is_of_length_one(inputs, constant, gram, classes):
    """Were it shorter, all noise would be larger than it need be."""
    layout = MomentLayout(inputs=inputs, targets=classes, radius=2.0, constant=constant, gram=gram)
    augmented = layout.augmented(torch.full((1, inputs), 7.0, dtype=torch.float64))
    vector = layout.vectors(augmented, ClassCode(columns=classes).encode(torch.tensor([0]), torch.float64))
    assert abs(float(torch.linalg.vector_norm(vector)) - 1) < 1e-12


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-9, 9)))
def test_the_upper_triangle_is_an_isometry_with_an_inverse(table):
    found = upper_triangle(torch.from_numpy(table)).numpy()
    for row, triangle in zip(table, found, strict=True):
        assert np.allclose(symmetric(triangle, len(row)), np.outer(row, row), rtol=1e-12, atol=1e-100)
        assert np.isclose(np.linalg.norm(triangle), np.dot(row, row), rtol=1e-12, atol=1e-100)
    for one, other in zip(found, found[::-1], strict=True):
        inner = np.sum(symmetric(one, table.shape[1]) * symmetric(other, table.shape[1]))
        assert np.isclose(one @ other, inner, rtol=1e-9, atol=1e-9)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), arrays.arrays(np.float32, 5, elements=any_numbers))
def test_a_number_within_bounds_is_of_length_one_at_most(lower, width, values):
    code = NumberCode(lower=lower, upper=lower + width)
    encoded = code.encode(torch.from_numpy(values), torch.float32)
    assert encoded.shape == (5, 1)
    assert float(encoded.abs().max()) <= 1


@given(tables, st.integers(0, 5), st.integers(0, 3))
def test_no_record_is_longer_than_one_in_the_statistics(table, bins, classes):
    columns = tuple(Column(name=str(at), lower=-1.0, upper=at + 0.5) for at in range(table.shape[1]))
    layout = ColumnLayout(columns=columns, bins=bins, classes=classes)
    drawn = torch.arange(len(table)) % classes if classes else None
    vectors = layout.vectors(torch.from_numpy(table), drawn)
    assert vectors.shape == (len(table), layout.size)
    assert float(torch.linalg.vector_norm(vectors, dim=1).max()) <= 1 + ROUNDING
    assert float(torch.linalg.vector_norm(vectors, ord=1, dim=1).max()) <= sqrt(layout.parts) * (1 + ROUNDING)
    at_the_bound = layout.vectors(torch.full((1, len(columns)), 9.0), None if drawn is None else drawn[:1])
    assert abs(float(torch.linalg.vector_norm(at_the_bound)) - 1) <= ROUNDING


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_monotone_is_the_nearest_sequence_that_does_not_fall(values):
    found = monotone(values)
    scale = max(1.0, *map(abs, values))
    assert (np.diff(found) >= 0).all()
    # What characterises it (Barlow et al. 1972): partial sums are no larger than those of the values, and equal at the
    # ends of pools.
    gaps = np.cumsum(values) - np.cumsum(found)
    assert (gaps >= -1e-9 * scale * len(values)).all()
    ends = np.flatnonzero(np.append(np.diff(found) > 0, True))
    assert np.allclose(gaps[ends], 0, atol=1e-9 * scale * len(values))
