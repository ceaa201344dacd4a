"""The contract that every task keeps."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedtrain.config import TaskConfig
from fedtrain.data.types import DataInfo
from fedtrain.tasks import Task, build_task, refuse_batch_statistics

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@dataclass(frozen=True, kw_only=True)
class Case:
    config: TaskConfig
    info: DataInfo


def image(*shape):
    return DataInfo(kind="image", shape=shape, classes=tuple("abcdefg"))


TABLE = DataInfo(kind="table", shape=(5,), classes=("a", "b", "c"))
CASES = [
    *(
        Case(config=TaskConfig(model=model, augment=augment), info=info)
        for model, info in [
            ("cnn-cifar", image(3, 32, 32)),
            ("resnet-gn", image(3, 32, 32)),
            ("cnn-small", image(1, 28, 28)),
            ("cnn-small", image(1, 8, 8)),
            ("mlp", image(3, 8, 8)),
            ("linear", image(1, 8, 8)),
            (None, image(1, 5, 9)),
        ]
        for augment in (False, True)
    ),
    *(Case(config=TaskConfig(name="tabular", model=model), info=TABLE) for model in (None, "mlp", "linear")),
    *(Case(config=TaskConfig(name="own_task:build"), info=info) for info in (image(1, 8, 8), image(3, 32, 32))),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case.config.name}-{case.config.model}-{case.config.augment}")
def case(request, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield request.param
    sys.modules.pop("own_task", None)


@pytest.fixture
def task(case) -> Task:
    return build_task(case.config, case.info)


def stored(info, n=6):
    draw = torch.Generator().manual_seed(1)
    if info.kind == "image":
        features = torch.randint(256, (n, *info.shape), generator=draw).to(torch.uint8)
    else:
        features = torch.randn(n, *info.shape, generator=draw)
    return features, torch.randint(len(info.classes), (n,), generator=draw)


def seeded(seed=2):
    return torch.Generator().manual_seed(seed)


def fresh(task):
    torch.manual_seed(0)
    return task.model()


@pytest.mark.parametrize("n", [0, 1, 6])
@pytest.mark.parametrize("generator", [None, 2])
def test_records_become_outputs(task, case, n, generator):
    features, _ = stored(case.info, n)
    encoded = task.encode(features, None if generator is None else seeded(generator))
    assert encoded.dtype == torch.float32
    assert len(encoded) == n
    outputs = fresh(task)(encoded)
    assert outputs.dtype == torch.float32
    assert len(outputs) == n
    assert torch.isfinite(outputs).all()


def test_evaluation_is_not_augmented(task, case):
    features, _ = stored(case.info)
    before, state = features.clone(), torch.get_rng_state()
    encoded = task.encode(features, None)
    assert torch.equal(task.encode(features, None), encoded)
    assert torch.equal(features, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_record_is_encoded_alone(task, case):
    features, _ = stored(case.info)
    alone = torch.cat([task.encode(features[i : i + 1], None) for i in range(len(features))])
    torch.testing.assert_close(task.encode(features, None), alone)


def test_augmentation_follows_its_generator_alone(task, case):
    features, _ = stored(case.info)
    state = torch.get_rng_state()
    assert torch.equal(task.encode(features, seeded()), task.encode(features, seeded()))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_records(task, case):
    features, labels = stored(case.info)
    outputs = fresh(task).double()(task.encode(features, None).double())
    loss = task.loss(outputs, labels)
    assert loss.shape == ()
    single = torch.stack([task.loss(outputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
    torch.testing.assert_close(loss, single.mean(), rtol=1e-12, atol=0)
    assert len(single.unique()) > 1


def test_each_record_is_scored_alone(task, case):
    features, _ = stored(case.info)
    model, encoded = fresh(task).double(), task.encode(features, None).double()
    alone = torch.cat([model(encoded[i : i + 1]) for i in range(len(encoded))])
    torch.testing.assert_close(model(encoded), alone, rtol=1e-9, atol=1e-12)


def test_a_batch_without_records_has_a_finite_loss_and_no_gradient(task, case):
    features, labels = stored(case.info, 0)
    model = fresh(task)
    loss = task.loss(model(task.encode(features, seeded())), labels)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(not weight.grad.any() for weight in model.parameters())


def test_every_model_has_the_same_state_and_weights_from_the_seed(task):
    first, again = fresh(task).state_dict(), fresh(task).state_dict()
    described = [(name, value.shape, value.dtype) for name, value in first.items()]
    assert described == [(name, value.shape, value.dtype) for name, value in task.model().state_dict().items()]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(value.is_floating_point() for value in first.values())


def test_the_model_can_be_trained_privately(task):
    refuse_batch_statistics(fresh(task))


def test_a_step_down_the_gradient_lowers_the_loss(task, case):
    features, labels = stored(case.info)
    model, encoded = fresh(task), task.encode(features, None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = task.loss(model(encoded), labels)
    before.backward()
    optimizer.step()
    assert task.loss(model(encoded), labels) < before


def test_metrics_are_json_and_start_afresh(task, case):
    features, labels = stored(case.info)
    model = fresh(task)
    with torch.no_grad():
        outputs = model(task.encode(features, None))
    for _ in range(2):
        metrics = task.metrics()
        metrics.update(outputs[:4], labels[:4])
        metrics.update(outputs[4:], labels[4:])
        measured = metrics.compute()
        assert measured["records"] == len(labels)
        assert measured["loss"] == pytest.approx(task.loss(outputs, labels).item(), rel=1e-5)
        assert json.loads(json.dumps(measured, allow_nan=False)) == measured
