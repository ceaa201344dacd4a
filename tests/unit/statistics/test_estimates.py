from math import sqrt

import numpy as np
import pytest
import torch

from fedtrain.errors import ConfigError
from fedtrain.statistics import Column, ColumnLayout, estimate, parse_column, parse_scaling

RECORDS = 2000
COLUMNS = (Column(name="age", lower=0.0, upper=100.0), Column(name="hours", lower=-10.0, upper=10.0))
LAYOUT = ColumnLayout(columns=COLUMNS, bins=20, classes=3)


@pytest.fixture(scope="module")
def table():
    drawn = np.random.default_rng(0)
    values = np.column_stack([drawn.uniform(20, 60, RECORDS), drawn.normal(2.0, 1.5, RECORDS)])
    return torch.from_numpy(values), torch.from_numpy(drawn.integers(0, 3, RECORDS))


def total_of(layout, table):
    values, classes = table
    return layout.vectors(values, classes if layout.classes else None).sum(dim=0).numpy()


def test_without_noise_estimates_are_the_statistics(table):
    values, classes = table
    found = estimate(LAYOUT, total_of(LAYOUT, table), deviation=0.0)
    assert found.count.value == pytest.approx(RECORDS)
    assert [each.value for each in found.classes] == pytest.approx(np.bincount(classes.numpy()))
    for at, column in enumerate(found.columns):
        exact = values[:, at].numpy()
        assert column.mean.value == pytest.approx(exact.mean())
        assert column.variance.value == pytest.approx(exact.var())
        assert column.deviation == pytest.approx(exact.std())
        edges = np.linspace(column.column.lower, column.column.upper, 21)
        assert [each.value for each in column.histogram] == pytest.approx(np.histogram(exact, edges)[0])
        for fraction in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert abs(column.quantile(fraction) - np.quantile(exact, fraction)) < edges[1] - edges[0]


def test_values_outside_count_as_the_bound_and_no_number_as_the_middle():
    layout = ColumnLayout(columns=(Column(name="age", lower=0.0, upper=10.0),))
    values = torch.tensor([[-5.0], [25.0], [float("inf")], [float("nan")]])
    total = layout.vectors(values).sum(dim=0).numpy()
    assert estimate(layout, total, deviation=0.0).columns[0].mean.value == pytest.approx((0 + 10 + 10 + 5) / 4)


DRAWS = 3000


def check_errors(table, read):
    """Check that estimates are off by what their standard errors say, and by chance alone."""
    noise = 3.0
    total = total_of(LAYOUT, table)
    drawn = np.random.default_rng(7).normal(scale=noise, size=(DRAWS, LAYOUT.size))
    exact = read(LAYOUT, total, deviation=noise)

    def each(found):
        yield found.count
        yield from found.classes
        for column in found.columns:
            yield column.mean
            yield column.variance
            yield column.histogram[5]

    noisy = [[*each(read(LAYOUT, total + row, deviation=noise))] for row in drawn]
    for one, of_one in zip(each(exact), zip(*noisy, strict=True), strict=True):
        values = np.array([estimated.value for estimated in of_one])
        assert abs(values.mean() - one.value) < 0.15 * one.error
        assert values.std() / one.error == pytest.approx(1, abs=0.08)
        low, high = np.array([estimated.interval for estimated in of_one]).T
        assert np.mean((low <= one.value) & (one.value <= high)) == pytest.approx(0.95, abs=0.02)


def test_estimates_are_unbiased_and_as_far_off_as_they_say(table):
    check_errors(table, estimate)


PLANTED = {
    "a weight that is left out": lambda layout, total, deviation: estimate(layout, total * 0.98, deviation=deviation),
    "an error of the vector, not of the count": lambda layout, total, deviation: estimate(
        layout, total, deviation=deviation * layout.weight
    ),
    "an error of half the noise": lambda layout, total, deviation: estimate(layout, total, deviation=deviation / 2),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_check_of_errors_finds_one(table, planted):
    noise = 3.0
    without_noise = total_of(LAYOUT, table)
    exact = estimate(LAYOUT, without_noise, deviation=noise)

    def read(layout, total, *, deviation):
        return exact if np.array_equal(total, without_noise) else PLANTED[planted](layout, total, deviation)

    with pytest.raises(AssertionError):
        check_errors(table, read)


def test_nothing_is_divided_by_a_count_that_may_be_noise(table):
    values, _ = table
    layout = ColumnLayout(columns=COLUMNS, bins=4)
    few = layout.vectors(values[:3]).sum(dim=0).numpy()
    found = estimate(layout, few, deviation=1.0)
    for column in found.columns:
        assert column.mean is None
        assert column.variance is None
        assert column.deviation is None
        assert column.quantile(0.5) is None
        assert len(column.histogram) == 4


def test_a_variance_that_noise_made_negative_is_zero_and_says_so():
    layout = ColumnLayout(columns=(Column(name="age", lower=0.0, upper=10.0),))
    total = layout.vectors(torch.full((100, 1), 5.0)).sum(dim=0).numpy()
    total[2] -= 1.0
    (column,) = estimate(layout, total, deviation=0.1).columns
    assert column.variance.value == 0
    assert column.clamped


def test_quantiles_do_not_fall_whatever_the_noise(table):
    layout = ColumnLayout(columns=COLUMNS, bins=50)
    total = total_of(layout, table) + np.random.default_rng(3).normal(scale=8.0, size=layout.size)
    for column in estimate(layout, total, deviation=8.0).columns:
        found = [column.quantile(fraction) for fraction in np.linspace(0, 1, 21)]
        assert found == sorted(found)
        assert column.column.lower <= found[0] <= found[-1] <= column.column.upper
    with pytest.raises(ValueError, match=r"a quantile of 1.5 is not allowed"):
        column.quantile(1.5)


def test_without_bins_there_is_no_quantile():
    layout = ColumnLayout(columns=COLUMNS)
    found = estimate(layout, layout.vectors(torch.ones(50, 2)).sum(dim=0).numpy(), deviation=0.0)
    assert found.columns[0].histogram == ()
    assert found.columns[0].quantile(0.5) is None


def test_statistics_share_the_norm_in_equal_parts():
    assert LAYOUT.parts == 1 + 2 * 3 + 1
    assert LAYOUT.weight == pytest.approx(1 / sqrt(8))
    found = estimate(LAYOUT, np.zeros(LAYOUT.size), deviation=2.0)
    assert found.count.error == pytest.approx(2 * sqrt(8))


@pytest.mark.parametrize("text", ["age", "age: 17", "age: a to b", ": 1 to 2", "age 1 to 2", "age: 1 to"])
def test_a_column_without_bounds_says_how_to_write_them(text):
    with pytest.raises(ConfigError, match="write the name, a colon, and the public bounds"):
        parse_column(text)


@pytest.mark.parametrize(
    "text", ["age", "age: 1", "age: 1 by 0", "age: 1 by -2", "age: inf by 1", "age: 1 by nan", ": 1 by 2"]
)
def test_a_scaling_without_its_numbers_says_how_to_write_them(text):
    with pytest.raises(ConfigError, match="finite number above 0 to divide by"):
        parse_scaling(text)


def test_a_scaling_is_read_as_it_is_written(table):
    found = estimate(LAYOUT, total_of(LAYOUT, table), deviation=0.0)
    for at, column in enumerate(found.columns):
        scaling = column.scaling
        assert parse_scaling(str(scaling)).unit == pytest.approx(scaling.unit, rel=1e-5)
        scaled = (table[0][:, at] - scaling.centre) / scaling.unit
        assert (float(scaled.mean()), float(scaled.var())) == pytest.approx((0, 1), abs=1e-3)


def test_a_column_whose_variance_is_noise_has_no_scaling():
    layout = ColumnLayout(columns=COLUMNS)
    found = estimate(layout, layout.vectors(torch.full((100, 2), 5.0)).sum(dim=0).numpy(), deviation=0.0)
    for column in found.columns:
        assert column.scaling is None or column.deviation > 0
    assert estimate(layout, np.zeros(layout.size), deviation=1.0).columns[0].scaling is None


def test_a_name_may_hold_a_colon():
    assert parse_column("a: b : -1e3 to 2.5") == Column(name="a: b", lower=-1000.0, upper=2.5)


@pytest.mark.parametrize("bounds", ["0 to inf", "-inf to inf", "nan to 1", "-1.7e308 to 1.7e308"])
def test_an_unbounded_statistic_says_the_arithmetic(bounds):
    with pytest.raises(ConfigError, match=r"column 'age' is an unbounded statistic: .* noise multiplier \* (inf|nan)"):
        parse_column(f"age: {bounds}")


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="the lower bound is to be below the upper"):
        parse_column("age: 90 to 17")
