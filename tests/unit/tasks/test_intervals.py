import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from fedtrain.tasks import ClassificationMetrics, MultilabelMetrics, RegressionMetrics
from fedtrain.tasks.intervals import Resampled, areas, bootstrap, draws, mean, percentiles


def classified(n=400, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    outputs = torch.randn(n, classes, generator=draw) + 1.5 * torch.nn.functional.one_hot(labels, classes)
    return ClassificationMetrics(classes), outputs, labels


def predicted(n=400, seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = 3 * torch.randn(n, generator=draw) + 50
    return RegressionMetrics(), (targets + torch.randn(n, generator=draw))[:, None], targets


def labelled(n=400, labels=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, labels, generator=draw) < 0.3).to(torch.uint8)
    return MultilabelMetrics(labels), torch.randn(n, labels, generator=draw).round(decimals=1) + targets, targets


CASES = {
    "classes": classified(),
    "two classes": classified(classes=2),
    "numbers": predicted(),
    "labels": labelled(),
}


def measured(case, rows=slice(None)):
    """Measure some records, which may be there several times, as an evaluation does."""
    template, outputs, targets = case
    width = outputs.shape[1]
    metrics = RegressionMetrics() if isinstance(template, RegressionMetrics) else type(template)(width)
    metrics.update(outputs[rows], {"targets": targets[rows]})
    found = metrics.compute()
    return {metric.name: found[metric.name] for metric in metrics.described}


def intervals(case, *, seed=1, reported=None):
    metrics, outputs, targets = case
    outcomes = metrics.outcomes(outputs, {"targets": targets})
    return bootstrap(metrics, outcomes, measured(case) if reported is None else reported, seed=seed)


@pytest.mark.parametrize("name", CASES)
def test_a_resample_measures_what_an_evaluation_of_its_records_would(name):
    metrics, outputs, targets = case = CASES[name]
    assert isinstance(metrics, Resampled)
    outcomes = metrics.outcomes(outputs, {"targets": targets})
    rows = torch.from_numpy(np.random.default_rng(3).integers(len(targets), size=(2, len(targets))))
    counts = torch.stack([torch.bincount(drawn, minlength=len(targets)) for drawn in rows], dim=1).to(torch.float64)
    found = metrics.resampled(outcomes, counts)
    for column, drawn in enumerate(rows):
        expected = measured(case, drawn)
        compared = set(found) & set(expected)
        assert compared >= set(expected) - {"calibration_error"}
        for each in compared:
            assert float(found[each][column]) == pytest.approx(expected[each], rel=1e-5), each


@pytest.mark.parametrize("name", CASES)
def test_every_measurement_is_within_its_interval(name):
    found, strange = intervals(CASES[name])
    reported = measured(CASES[name])
    assert strange == ()
    assert set(found) == set(reported) - {"calibration_error"}
    for each, interval in found.items():
        assert interval.lower < reported[each] < interval.upper


def test_the_same_seed_gives_the_same_intervals_and_another_gives_others():
    one, two, other = intervals(CASES["numbers"]), intervals(CASES["numbers"]), intervals(CASES["numbers"], seed=2)
    assert one == two != other


def test_each_resample_draws_as_many_records_as_there_are_all_alike():
    counts = torch.cat(list(draws(50, 2000, 0)), dim=1)
    assert counts.shape == (50, 2000)
    assert bool((counts.sum(dim=0) == 50).all())
    # Each is binomial: 50 draws, each with probability 1 / 50.
    assert float(counts.mean()) == 1.0
    assert float(counts.var()) == pytest.approx(0.98, rel=0.02)
    assert bool((counts.mean(dim=1) - 1).abs().max() < 0.12)


def covered(*, sample, interval, truth, sets):
    """Count how many intervals of so many sets of records hold the truth."""
    held = 0
    for number in range(sets):
        found = interval(sample(np.random.default_rng([7, number])), number)
        held += found is not None and found.lower <= truth <= found.upper
    return held


def of_mean(values, seed, *, keep=1.0):
    """Return the interval of a mean; with ``keep`` below one, an error is planted: it is narrower by so much."""
    values = torch.from_numpy(values)
    found = torch.cat([mean(values, counts) for counts in draws(len(values), 300, seed)])
    middle = float(values.mean())
    return percentiles((middle + keep * (found.numpy() - middle)).astype(np.float64))


@pytest.mark.parametrize(
    ("sample", "truth"),
    [
        (lambda draw: (draw.random(100) < 0.8).astype(np.float64), 0.8),
        (lambda draw: draw.normal(2.0, 3.0, 100), 2.0),
    ],
    ids=["accuracy", "errors"],
)
def test_intervals_hold_the_truth_as_often_as_they_say_and_narrow_ones_do_not(sample, truth):
    sets = 250
    least, most = binom.ppf([1e-3, 1 - 1e-3], sets, 0.945)
    assert least <= covered(sample=sample, interval=of_mean, truth=truth, sets=sets) <= most

    def narrow(values, seed):
        return of_mean(values, seed, keep=0.7)

    assert covered(sample=sample, interval=narrow, truth=truth, sets=sets) < least


def test_what_all_resamples_agree_on_has_no_interval():
    metrics, outputs, targets = classified(n=1)
    one, _ = bootstrap(
        metrics, metrics.outcomes(outputs, {"targets": targets}), {"loss": None, "accuracy": 0.0}, seed=0
    )
    assert one == {}
    right = torch.eye(3)[torch.arange(60) % 3] * 9
    perfect, strange = intervals((ClassificationMetrics(3), right, torch.arange(60) % 3))
    assert strange == ()
    assert not {"accuracy", "f1"} & set(perfect)


def test_resamples_without_a_value_widen_the_interval_and_many_of_them_leave_none():
    values = np.linspace(0, 1, 1000)
    whole = percentiles(values)
    some = percentiles(np.where(np.arange(1000) % 100 == 50, np.nan, values))
    assert some.lower < whole.lower < whole.upper < some.upper
    assert percentiles(np.where(np.arange(1000) % 20 == 10, np.nan, values)) is None


def test_a_label_that_few_records_have_has_no_interval_of_its_area():
    # Of 2 records with the label, 13 % of the resamples have none.
    _, outputs, targets = labelled(n=100, labels=1)
    targets = torch.zeros_like(targets)
    targets[:2] = 1
    found, strange = intervals((MultilabelMetrics(1), outputs, targets))
    assert strange == ()
    assert set(found) == {"loss"}


def test_targets_that_are_all_equal_have_no_determination():
    outputs = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    found, strange = intervals((RegressionMetrics(), outputs, torch.full((50,), 7.3)))
    assert strange == ()
    assert set(found) == {"mse", "mae", "loss"}


def test_a_measurement_that_is_made_otherwise_is_told_and_has_no_interval():
    reported = measured(CASES["numbers"])
    found, strange = intervals(CASES["numbers"], reported=reported | {"mae": 2 * reported["mae"], "r2": None})
    assert set(strange) == {"mae", "r2"}
    assert set(found) == {"mse", "loss"}


def test_areas_are_counted_by_pairs():
    draw = np.random.default_rng(0)
    scores, truth = draw.integers(6, size=40), draw.integers(2, size=40)
    counts = draw.integers(3, size=40)
    auroc, _ = areas(torch.from_numpy(scores), torch.from_numpy(truth), torch.from_numpy(counts)[:, None].double())
    won = total = 0.0
    for one, is_one, times in zip(scores, truth, counts, strict=True):
        for other, is_other, often in zip(scores, truth, counts, strict=True):
            if is_one and not is_other:
                won += times * often * ((one > other) + (one == other) / 2)
                total += times * often
    assert float(auroc[0]) == pytest.approx(won / total)
    none, precision = areas(torch.arange(3.0), torch.ones(3), torch.ones((3, 1), dtype=torch.float64))
    assert math.isnan(float(none[0]))
    assert math.isnan(float(precision[0]))


def test_areas_of_scores_that_are_equal_or_infinite_are_those_of_their_order():
    scores = torch.tensor([-math.inf, 0.0, 0.0, 1.0, math.inf, math.inf])
    truth = torch.tensor([0, 0, 1, 1, 0, 1])
    auroc, precision = areas(scores, truth, torch.ones((6, 2), dtype=torch.float64))
    assert auroc.tolist() == pytest.approx([(1.5 + 2 + 2.5) / 9] * 2)
    assert precision.tolist() == pytest.approx([(3 / 5 + 2 / 3 + 1 / 2) / 3] * 2)


def test_scores_that_are_not_numbers_have_no_areas():
    scores = torch.tensor([0.0, math.nan, 1.0, 2.0])
    found = areas(scores, torch.tensor([0, 1, 0, 1]), torch.ones((4, 3), dtype=torch.float64))
    assert all(values.isnan().tolist() == [True] * 3 for values in found)
