"""Tasks whose sums are the gradient of a linear loss: the vectors, and what is read from their noisy sum."""

import math

import numpy as np
import pytest
import torch

from fedtrain.config import TaskConfig, from_flat
from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image, LabelsTarget, NumberTarget
from fedtrain.errors import ConfigError, TaskError
from fedtrain.privacy.mechanisms import Requirements
from fedtrain.tasks import Records, build_task
from fedtrain.tasks.calls import collate, forward, losses
from fedtrain.tasks.column_statistics import ColumnStatistics
from fedtrain.tasks.least_squares import LeastSquares, with_solver
from fedtrain.training import check_model

COUNT = 30


def one_sum(**values):
    return from_flat(
        {
            "federation.rounds": 1,
            "privacy.mode": "record",
            "privacy.sampling_rate": 1.0,
            "privacy.delta": 1e-3,
            **{key.replace("__", "."): value for key, value in values.items()},
        }
    )


def info_of(target, features=Columns(shape=(3,), names=("a", "b", "c"))):  # noqa: B008 -- immutable
    return DataInfo(features=features, target=target)


def records_of(info, seed=0):
    draw = torch.Generator().manual_seed(seed)
    match info.target.kind:
        case "class":
            targets = torch.randint(len(info.classes), (COUNT,), generator=draw)
        case "labels":
            targets = torch.randint(2, (COUNT, len(info.classes)), generator=draw).to(torch.uint8)
        case "number":
            targets = torch.rand(COUNT, generator=draw)
    if info.kind == "image":
        features = torch.randint(256, (COUNT, *info.shape), generator=draw).to(torch.uint8)
    else:
        features = torch.rand(COUNT, *info.shape, generator=draw) * 2 - 1
    return Records(features=features, targets=targets)


SCHEMED = Columns(shape=(3,), names=("a", "b", "c"), schema="0" * 64)
CLASSES = ClassTarget(names=("no", "yes", "maybe"))
SETTINGS = {"training__solver": "least-squares", "training__target_lower": 0.0, "training__target_upper": 1.0}
CASES = {
    "classes": ("tabular", info_of(CLASSES)),
    "labels": ("multilabel", info_of(LabelsTarget(names=("x", "y")))),
    "number": ("regression", info_of(NumberTarget())),
    "image": ("vision", info_of(CLASSES, Image(shape=(1, 4, 4)))),
}


def least_squares(name, info, **settings):
    experiment = one_sum(task__name=name, **(SETTINGS | settings))
    task = with_solver(build_task(experiment.task, info), experiment, info)
    assert isinstance(task, LeastSquares)
    return task


def statistics(info, **config):
    config = {"columns": "a: -1 to 1, c: -2 to 2", "bins": 4} | config
    return build_task(TaskConfig(name="statistics", **config), info)


TASKS = {name: (lambda case=case: least_squares(*case), case[1]) for name, case in CASES.items()} | {
    "statistics": (lambda: statistics(CASES["classes"][1]), CASES["classes"][1]),
    "statistics of a number": (
        lambda: statistics(CASES["number"][1], columns="b: -1 to 1, target: 0 to 1"),
        CASES["number"][1],
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_is_minus_the_sum_of_the_vectors(name):
    task, records = TASKS[name][0](), records_of(TASKS[name][1])
    model = task.model()
    batch = collate(task, records, None)
    torch.autograd.backward(losses(task, forward(task, model, batch), batch).sum())
    vectors = task.vectors(batch)
    norms = torch.linalg.vector_norm(vectors, dim=1)
    assert 0.01 < float(norms.min()) <= float(norms.max()) <= 1 + 1e-6
    assert vectors.shape == (COUNT, task.size)
    assert torch.allclose(-model.weight.grad[0], vectors.sum(dim=0), rtol=1e-2, atol=1e-3)
    assert float(torch.linalg.vector_norm(model.weight.grad)) < COUNT


@pytest.mark.parametrize("name", TASKS)
def test_its_gradients_of_single_records_are_proven_the_fast_way(name):
    task, info = TASKS[name][0](), TASKS[name][1]
    result = check_model(task.model(), Requirements(per_record_gradients=True), task=task, info=info)
    assert result.way == "book-keeping"


def sums_of(task, records, *, learning_rate=0.1):
    """Return the model after one step without noise, of one client whose divisor is the number of its records."""
    batch = collate(task, records, None)
    model = task.model()
    torch.autograd.backward(losses(task, forward(task, model, batch), batch).mean())
    return {"weight": (-learning_rate * model.weight.grad).numpy()}


@pytest.mark.parametrize("name", CASES)
def test_without_noise_the_layer_is_the_least_squares_fit(name):
    task, info = TASKS[name][0](), TASKS[name][1]
    records = records_of(info)
    batch = collate(task, records, None)
    found = task.solve(sums_of(task, records), noise=0.0)
    inputs = batch["inputs"].flatten(1).double().numpy()
    targets = task.code.encode(batch["targets"], torch.float64).numpy() * task.code.scale + task.code.centre
    with_ones = np.column_stack([inputs, np.ones(COUNT)])
    expected = with_ones @ np.linalg.lstsq(with_ones, targets, rcond=None)[0]
    layer = task.fitted()
    layer.load_state_dict({key: torch.from_numpy(value) for key, value in found.items()})
    assert np.allclose(layer(batch["inputs"]).detach().numpy(), expected, atol=2e-2)
    outputs = forward(task, layer, batch)
    metrics = task.metrics()
    metrics.update(outputs, batch)
    assert math.isfinite(metrics.compute()["loss"])


def test_noise_brings_the_layer_towards_zero():
    task, info = TASKS["classes"][0](), TASKS["classes"][1]
    sums = sums_of(task, records_of(info))
    norms = [np.linalg.norm(task.solve(sums, noise=noise)["linear.weight"]) for noise in (0.0, 0.01, 0.1, 1.0)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < norms[0] / 4


def test_statistics_are_read_from_the_sum():
    task, info = TASKS["statistics of a number"][0](), TASKS["statistics of a number"][1]
    records = records_of(info)
    experiment = one_sum(task__name="statistics", task__columns="b: -1 to 1")
    found = task.read(sums_of(task, records), experiment, noise=0.0, units=COUNT)
    assert found.count.value == pytest.approx(COUNT, rel=1e-4)
    assert found.columns[0].mean.value == pytest.approx(float(records.features[:, 1].mean()), abs=1e-4)
    assert found.columns[1].mean.value == pytest.approx(float(records.targets.mean()), abs=1e-4)
    assert found.classes == ()
    assert task.read(sums_of(task, records), experiment, noise=0.1, units=COUNT).count.error > 0.1 * COUNT


def test_so_many_records_are_taken_at_once_that_their_vectors_fit():
    wide = info_of(CLASSES, Image(shape=(1, 16, 16)))
    task = least_squares("vision", wide)
    assert task.size == 257 * 258 // 2 + 257 * 3
    assert task.together == 2**23 // task.size


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: with_solver(object(), one_sum(training__solver="least-squares"), CASES["classes"][1]),
            TaskError,
            "fits what a built-in task predicts",
        ),
        (
            lambda: with_solver(
                build_task(TaskConfig(name="regression"), CASES["number"][1]),
                one_sum(training__solver="least-squares"),
                CASES["number"][1],
            ),
            ConfigError,
            r"is an unbounded statistic .* noise multiplier \* the largest target",
        ),
        (
            lambda: least_squares("regression", CASES["number"][1], training__target_upper=-1.0),
            ConfigError,
            "the lower bound is to be below the upper",
        ),
        (lambda: statistics(CASES["image"][1]), TaskError, "this data set holds images"),
        (lambda: statistics(CASES["classes"][1], columns=None), ConfigError, "needs task.columns"),
        (lambda: statistics(CASES["classes"][1], columns="a: 0 to 1, a: 0 to 2"), ConfigError, "names a column twice"),
        (
            lambda: statistics(CASES["classes"][1], columns="z: 0 to 1"),
            TaskError,
            "names z, which this data set does not have",
        ),
        (lambda: statistics(CASES["classes"][1], columns="target: 0 to 1"), TaskError, "names target, which"),
        (lambda: statistics(CASES["classes"][1], columns="a: 0 to inf"), ConfigError, "an unbounded statistic"),
        (
            lambda: statistics(info_of(CLASSES, SCHEMED), columns="a: -1 to 1, b: 0 to 90"),
            ConfigError,
            "has 'b' from 0 to 90, and a schema file scales its columns to -1 to 1",
        ),
        (lambda: statistics(CASES["classes"][1], model="mlp"), TaskError, "trains no model"),
    ],
)
def test_what_cannot_be_summed_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_statistics_of_a_table_by_a_schema_file_are_within_its_scale():
    assert statistics(info_of(CLASSES, SCHEMED), columns="a: -1 to 1, b: 0 to 1").layout.columns[1].upper == 1


def test_statistics_measure_nothing_on_test_records():
    task = statistics(CASES["classes"][1])
    assert isinstance(task, ColumnStatistics)
    assert task.classes == ("no", "yes", "maybe")
    metrics = task.metrics()
    metrics.update(torch.zeros(1, 1), {})
    assert (metrics.described, metrics.compute()) == ((), {})
