"""What every trainer keeps to: without clipping and noise, all leave the same weights."""

import copy
import dataclasses
import functools

import pytest
import torch

from fedtrain.config import TaskConfig, Training
from fedtrain.data import (
    ClassTarget,
    Columns,
    DataInfo,
    Image,
    LabelsTarget,
    NumberTarget,
    Sound,
    TextTarget,
    Tokens,
)
from fedtrain.privacy.noise import SeededSource
from fedtrain.tasks import Records, build_task
from fedtrain.training import PlainTrainer, RoundSettings
from fedtrain.training.preflight import PreflightResult, preflight
from fedtrain.training.private import PrivateTrainer
from fedtrain.training.stacked import Part, StackedTrainer, why_not_stacked
from tests.plans import plan_without_bound

COUNT = 12
CASES = {
    "tabular": (Columns(shape=(5,)), ClassTarget(names=("a", "b", "c"))),
    "vision": (Image(shape=(1, 8, 8)), ClassTarget(names=("a", "b", "c"))),
    "speech": (Sound(shape=(900,), rate=8000), ClassTarget(names=("a", "b", "c"))),
    "regression": (Columns(shape=(5,)), NumberTarget()),
    "multilabel": (Columns(shape=(5,)), LabelsTarget(names=("a", "b"))),
    "language": (Tokens(shape=(7,), vocabulary=9), TextTarget()),
}
# Opacus has no hooks for the layers of the others: tests/unit/tasks/test_language.py has those of the LSTM.
MODELS = {"language": "causal"}
SETTINGS = RoundSettings(learning_rate=0.1, proximal_mu=0.0, seed=3)


def records(info):
    draw = torch.Generator().manual_seed(0)
    if info.kind == "image":
        features = torch.randint(256, (COUNT, *info.shape), generator=draw).to(torch.uint8)
    elif info.kind == "tokens":
        features = torch.randint(info.features.vocabulary, (COUNT, *info.shape), generator=draw).to(torch.int32)
    else:
        features = torch.randn(COUNT, *info.shape, generator=draw)
    match info.target.kind:
        case "class":
            targets = torch.randint(len(info.classes), (COUNT,), generator=draw)
        case "number":
            targets = torch.randn(COUNT, generator=draw)
        case "labels":
            targets = torch.randint(2, (COUNT, len(info.classes)), generator=draw).to(torch.uint8)
        case "text":
            targets = torch.zeros(COUNT, 0, dtype=torch.uint8)
    return Records(features=features, targets=targets)


class Double:
    """The task, in double precision: the noise that the self-check asks for is then far below what is compared."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def collate(self, records, generator):
        batch = self._task.collate(records, generator)
        return batch | {"inputs": batch["inputs"].double()} if batch["inputs"].is_floating_point() else batch


@functools.cache
def case(name):
    """Return the schema of a task, the task in double precision, and a model that book-keeping can train."""
    features, target = CASES[name]
    info = DataInfo(features=features, target=target)
    task = Double(build_task(TaskConfig(name=name, model=MODELS.get(name)), info))
    torch.manual_seed(0)
    first = task.model().double()
    assert preflight(first, task, info).way == "book-keeping"
    return info, task, first


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_all_trainers_leave_the_same_weights(name, mu, momentum):
    info, task, first = case(name)
    settings = dataclasses.replace(SETTINGS, proximal_mu=mu)
    # Every batch holds all records, in whatever order.
    config = Training(momentum=momentum, batch_size=COUNT, local_steps=3)
    plan = plan_without_bound(COUNT, steps=3)
    trainers = [
        PlainTrainer(config=config),
        *(
            PrivateTrainer(config=config, plan=plan, source=SeededSource(0), preflight=PreflightResult(way=way))
            for way in ("book-keeping", "hooks", "vmap", "loop")
        ),
    ]
    weights = []
    for trainer in trainers:
        model = copy.deepcopy(first)
        trainer.train(model, task, records(info), settings)
        weights.append(list(model.parameters()))
    assert not torch.equal(weights[0][0], next(first.parameters()))
    for private in weights[1:]:
        torch.testing.assert_close(private, weights[0], rtol=1e-5, atol=1e-6)


UNEQUAL = (12, 5, 9, 12, 3, 8)
OPTIMIZERS = {
    "sgd": {"momentum": 0.9},
    "decayed": {"momentum": 0.5, "weight_decay": 0.1},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
}


@functools.cache
def stackable(name):
    """Return what `case` does; the CNN's images are augmented, each client's by draws of its own."""
    info, task, first = case(name)
    if name == "vision":
        task = Double(build_task(TaskConfig(name=name, augment=True), info))
    assert why_not_stacked(first, task, info) == ""
    return info, task, first


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"language"}))
def test_clients_that_train_at_once_get_what_each_gets_alone(name, mu, optimizer):
    info, task, first = stackable(name)
    # Two passes: unequal numbers of steps and of records in the last batch of a pass.
    config = Training(batch_size=4, local_epochs=2, **OPTIMIZERS[optimizer])
    everything = records(info)
    parts = [
        Part(
            model=copy.deepcopy(first),
            records=everything.take(slice(COUNT - count, COUNT)),
            settings=dataclasses.replace(SETTINGS, proximal_mu=mu, seed=seed),
        )
        for seed, count in enumerate(UNEQUAL)
    ]
    right = copy.deepcopy(parts)
    trainer = PlainTrainer(config=config)
    losses = [trainer.train(part.model, task, part.records, part.settings) for part in right]
    found = StackedTrainer(config=config, fewest=2).train_many(task, parts)
    assert found == pytest.approx(losses, rel=1e-9)
    for one, other in zip(parts, right, strict=True):
        assert not torch.equal(next(one.model.parameters()), next(first.parameters()))
        torch.testing.assert_close([*one.model.parameters()], [*other.model.parameters()], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("model", "reason"), [("causal", "attention"), ("lstm", "lstm")])
def test_what_has_no_rule_to_compute_clients_at_once_trains_one_after_another(model, reason):
    info, _, _ = case("language")
    task = build_task(TaskConfig(name="language", model=model), info)
    for _ in range(2):
        assert reason in why_not_stacked(task.model(), task, info).lower()


def test_only_a_trainer_without_privacy_tells_the_loss():
    info = DataInfo(features=Columns(shape=(5,)), target=NumberTarget())
    task = build_task(TaskConfig(name="regression"), info)
    config = Training(local_steps=2)
    plain = PlainTrainer(config=config)
    plan, source = plan_without_bound(COUNT, steps=2, noise=1e-3), SeededSource(0)
    private = PrivateTrainer(config=config, plan=plan, source=source, preflight=preflight(task.model(), task, info))
    assert plain.train(task.model(), task, records(info), SETTINGS) > 0
    assert private.train(task.model(), task, records(info), SETTINGS) is None
