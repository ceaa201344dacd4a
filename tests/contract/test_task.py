"""The contract that every task keeps."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedtrain.config import TaskConfig
from fedtrain.data.types import (
    ClassTarget,
    Columns,
    DataInfo,
    Encoded,
    Image,
    LabelsTarget,
    NumberTarget,
    Sound,
    TextTarget,
    Tokens,
)
from fedtrain.tasks import Records, Task, build_task, refuse_batch_statistics, shared_names
from fedtrain.tasks.calls import collate, forward, losses, refuse_coupled_losses

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@dataclass(frozen=True, kw_only=True)
class Case:
    config: TaskConfig
    info: DataInfo


LABELS = LabelsTarget(names=("round", "red", "ripe"))
TABLE = Columns(shape=(5,))


LETTERS = ClassTarget(names=tuple("abcdefg"))


def image(*shape, target=LETTERS):
    return DataInfo(features=Image(shape=shape), target=target)


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
            ("linear-no-bias", image(1, 8, 8)),
            (None, image(1, 5, 9)),
        ]
        for augment in (False, True)
    ),
    *(
        Case(config=TaskConfig(name=name, model=model), info=DataInfo(features=TABLE, target=target))
        for name, target in (
            ("tabular", ClassTarget(names=("a", "b", "c"))),
            ("regression", NumberTarget()),
            ("multilabel", LABELS),
        )
        for model in (None, "mlp", "linear")
    ),
    *(
        Case(config=TaskConfig(name=name, model=model, augment=augment), info=image(3, 32, 32, target=target))
        for name, target in (("regression", NumberTarget()), ("multilabel", LABELS))
        for model, augment in ((None, True), ("cnn-small", False), ("resnet-gn", False), ("linear", True))
    ),
    *(
        Case(config=TaskConfig(name=name, model=model), info=DataInfo(features=Encoded(shape=shape), target=target))
        for name, target in (("vision", LETTERS), ("regression", NumberTarget()), ("multilabel", LABELS))
        for model, shape in ((None, (81, 2, 2)), ("linear-no-bias", (7,)), ("cnn-small", (243, 8, 8)))
    ),
    *(
        Case(
            config=TaskConfig(name=name, model=model, augment=augment),
            info=DataInfo(features=Sound(shape=(2000,), rate=8000), target=target),
        )
        for name, target, model in (
            ("speech", LETTERS, None),
            ("speech", LETTERS, "linear"),
            ("regression", NumberTarget(), "cnn-small"),
            ("multilabel", LABELS, "mlp"),
        )
        for augment in (False, True)
    ),
    *(
        Case(
            config=TaskConfig(name=name, model=model),
            info=DataInfo(features=Tokens(shape=(12,), vocabulary=40), target=target),
        )
        for name, target in (("text", LETTERS), ("regression", NumberTarget()), ("multilabel", LABELS))
        for model in ("bag", "transformer")
    ),
    *(
        Case(
            config=TaskConfig(name="language", model=model),
            info=DataInfo(features=Tokens(shape=(12,), vocabulary=40), target=TextTarget()),
        )
        for model in (None, "lstm", "causal")
    ),
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


@pytest.fixture
def stored(case):
    """Return records of the schema."""
    draw, n, names = torch.Generator().manual_seed(1), 6, len(case.info.classes)
    if case.info.kind == "image":
        features = torch.randint(256, (n, *case.info.shape), generator=draw).to(torch.uint8)
    elif case.info.kind == "tokens":
        features = torch.randint(case.info.features.vocabulary, (n, *case.info.shape), generator=draw).to(torch.int32)
    else:
        features = torch.randn(n, *case.info.shape, generator=draw)
    match case.info.target.kind:
        case "class":
            targets = torch.randint(names, (n,), generator=draw)
        case "number":
            targets = torch.randn(n, generator=draw)
        case "labels":
            targets = torch.randint(2, (n, names), generator=draw).to(torch.uint8)
        case "text":
            targets = torch.zeros(n, 0, dtype=torch.uint8)
    return Records(features=features, targets=targets)


def seeded(seed=2):
    return torch.Generator().manual_seed(seed)


def fresh(task):
    torch.manual_seed(0)
    return task.model()


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def single(batch, row):
    return {name: value[row : row + 1] for name, value in batch.items()}


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("generator", [None, 2])
def test_records_become_outputs_and_losses(task, stored, n, generator):
    batch = collate(task, stored.take(slice(n)), None if generator is None else seeded(generator))
    assert batch["inputs"].dtype == (torch.int64 if stored.features.dtype == torch.int32 else torch.float32)
    outputs = forward(task, fresh(task), batch)
    assert outputs.dtype == torch.float32
    assert torch.isfinite(outputs).all()
    found = losses(task, outputs, batch)
    assert found.shape == (n,)
    assert torch.isfinite(found).all()


def test_evaluation_is_not_augmented(task, stored):
    before, state = stored.features.clone(), torch.get_rng_state()
    batch = collate(task, stored, None)
    assert equal(collate(task, stored, None), batch)
    assert torch.equal(stored.features, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_record_is_encoded_alone(task, stored):
    batch = collate(task, stored, None)
    for row in range(len(stored)):
        alone = collate(task, stored.take(slice(row, row + 1)), None)
        for name, value in alone.items():
            torch.testing.assert_close(batch[name][row : row + 1], value)


def test_augmentation_follows_its_generator_alone(task, stored):
    state = torch.get_rng_state()
    assert equal(collate(task, stored, seeded()), collate(task, stored, seeded()))
    assert torch.equal(torch.get_rng_state(), state)


def test_each_record_is_scored_and_has_its_loss_alone(task, stored):
    model, batch = fresh(task).double(), collate(task, stored, None)
    if batch["inputs"].is_floating_point():
        batch["inputs"] = batch["inputs"].double()
    outputs = forward(task, model, batch)
    alone = [forward(task, model, single(batch, row)) for row in range(len(stored))]
    torch.testing.assert_close(outputs, torch.cat(alone), rtol=1e-9, atol=1e-12)
    found = losses(task, outputs, batch)
    by_record = [losses(task, output, single(batch, row)) for row, output in enumerate(alone)]
    torch.testing.assert_close(found, torch.cat(by_record), rtol=1e-9, atol=1e-12)
    assert len(found.unique()) > 1
    refuse_coupled_losses(task, outputs, batch, found)


def test_every_model_has_the_same_state_and_weights_from_the_seed(task):
    first, again = fresh(task).state_dict(), fresh(task).state_dict()
    described = [(name, value.shape, value.dtype) for name, value in first.items()]
    assert described == [(name, value.shape, value.dtype) for name, value in task.model().state_dict().items()]
    assert equal(first, again)
    assert all(value.is_floating_point() for value in first.values())


def test_the_model_can_be_trained_privately_and_is_shared(task):
    model = fresh(task)
    refuse_batch_statistics(model)
    assert shared_names(task, model) == {name for name, _ in model.named_parameters()}


def test_a_step_down_the_gradient_lowers_the_loss(task, stored):
    model, batch = fresh(task), collate(task, stored, None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = losses(task, forward(task, model, batch), batch).mean()
    before.backward()
    optimizer.step()
    assert losses(task, forward(task, model, batch), batch).mean() < before


def test_metrics_are_json_and_start_afresh(task, stored):
    batch, model = collate(task, stored, None), fresh(task)
    with torch.no_grad():
        outputs = forward(task, model, batch)
    for _ in range(2):
        metrics = task.metrics()
        metrics.update(outputs[:4], {name: value[:4] for name, value in batch.items()})
        metrics.update(outputs[4:], {name: value[4:] for name, value in batch.items()})
        measured = metrics.compute()
        assert measured["records"] == len(stored)
        assert measured["loss"] == pytest.approx(losses(task, outputs, batch).mean().item(), rel=1e-5)
        assert json.loads(json.dumps(measured, allow_nan=False)) == measured
        names = [metric.name for metric in metrics.described]
        assert len(set(names)) == len(names) > 0
        assert all(isinstance(measured[name], float | None) for name in names)
