"""Each way that a model has to make an epsilon false: it is refused by name, or trained right."""

import copy
import random
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.config import TaskConfig, Training
from fedtrain.data import ClassTarget, Columns, DataInfo, Image, LabelsTarget, NumberTarget
from fedtrain.errors import TaskError
from fedtrain.privacy.noise import SeededSource
from fedtrain.tasks import Records, build_task
from fedtrain.tasks.models import ARCHITECTURES
from fedtrain.training import RoundSettings, private
from fedtrain.training.contributions import Products
from fedtrain.training.gradients import by_loop, by_vmap, collate_alone
from fedtrain.training.preflight import preflight
from fedtrain.training.private import with_noise
from tests.unit.training.mechanism import Classification, flat, plan, train_private
from tests.unit.training.zoo import (
    INFO,
    REFUSED,
    REFUSED_LOSSES,
    TRAINED,
    TRAINED_LOSSES,
    WIDTH,
    Built,
    Model,
    of_two_names,
    plain,
)

CLIP, COUNT = 0.01, 24
SETTINGS = RoundSettings(learning_rate=1.0, proximal_mu=0.0, seed=5)
TASKS = {name: Built(make) for name, (make, _) in TRAINED.items()} | {
    name: Built(plain, loss) for name, loss in TRAINED_LOSSES.items()
}
DRAWN = {
    *("dropout", "much dropout", "dropout in a layer of one's own", "attention with dropout"),
    *("sorted for some draws", "Beta of each record", "RReLU"),
}


class Double(Classification):
    """A task on records in double precision."""

    def __init__(self, task):
        self.task = task

    def model(self):
        return self.task.model().double()

    def collate(self, records, generator):
        return {"inputs": records.features.double(), "targets": records.targets}

    def losses(self, outputs, batch):
        return self.task.losses(outputs, batch)


def records(count=COUNT):
    draw = torch.Generator().manual_seed(0)
    # Two numbers are whole and not negative, so that they are words too.
    features = torch.randint(0, 3, (count, WIDTH), generator=draw).float()
    features[:, 0] += torch.rand(count, generator=draw)
    return Records(features=features, targets=torch.randint(0, 3, (count,), generator=draw))


def without(data, row):
    kept = torch.arange(len(data)) != row
    return Records(features=data.features[kept], targets=data.targets[kept])


def clipped_sum(task, data):
    """Return the sum of clipped gradients that a round of one step made of the records, and the way."""
    model = task.model()
    result = preflight(model, task, INFO)
    before = flat(model)
    # The same in each call, and so in no difference of them.
    mechanism = plan(clip=CLIP, batch=1, noise=1e-5)
    train_private(model, task, data, Training(), SETTINGS, mechanism, SeededSource(5), result)
    return before - flat(model)


def right_sum(task, data):
    """Return what it is to be: each record alone, clipped."""
    model = task.model()
    _, gradients = by_loop(task, model, collate_alone(task, data, None))
    rows = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
    return (rows * (CLIP / rows.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)


@pytest.mark.parametrize("name", TASKS)
def test_what_trains_is_within_the_bound_and_right(name):
    # Opacus' recurrent layers are in single precision alone where sequences are packed.
    single = name == "packed sequences of unsorted lengths"
    task, data = TASKS[name] if single else Double(TASKS[name]), records()
    whole, right = clipped_sum(task, data), right_sum(task, data)
    if name not in DRAWN:
        assert (whole - right).norm() / right.norm() < 1e-4
        for row in (0, 7, COUNT - 1):
            moved = whole - clipped_sum(task, without(data, row))
            assert float(moved.norm()) / CLIP <= 1 + (1e-4 if single else 1e-6)


def changes():
    """Return a model that compares positions of nearly the same weight: what each adds is a million times the sum."""

    def change(s, x):
        outputs = s.first((1e3 * x).unsqueeze(1).expand(-1, 2, -1))
        return s.last(torch.tanh(outputs[:, 0] - (1 - 1e-3) * outputs[:, 1]))

    return Model(change, first=nn.Linear(WIDTH, 64, bias=False), last=nn.Linear(64, 3))


def test_a_record_whose_terms_cancel_is_within_the_bound_in_single_precision():
    task, data = Built(changes), records()
    assert preflight(task.model(), task, INFO).way == "book-keeping"
    whole = clipped_sum(task, data)
    for row in (0, 7, COUNT - 1):
        assert float((whole - clipped_sum(task, without(data, row))).norm()) / CLIP <= 1 + 1e-4


class Regularised(Classification):
    """Adds to the loss of a record what its forward pass kept on the task."""

    def model(self):
        torch.manual_seed(0)
        return plain()

    def forward(self, model, batch):
        outputs = model(batch["inputs"])
        self.kept = outputs.square().sum(1)
        return outputs

    def losses(self, outputs, batch):
        return super().losses(outputs, batch) + 0.1 * self.kept


def test_a_loss_of_more_than_outputs_and_batch_trains_by_a_way_that_computes_records_alone():
    task, data = Regularised(), records()
    assert preflight(task.model(), task, INFO).way in {"vmap", "loop"}
    whole, right = clipped_sum(task, data), right_sum(task, data)
    assert (whole - right).norm() / right.norm() < 1e-3


def test_a_layer_of_two_names_keeps_its_weights():
    task = Built(of_two_names)
    model = task.model()
    before = list(model.parameters())
    by_vmap(task, model, collate_alone(task, records(), None))
    assert all(one is other for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", TRAINED)
def test_book_keeping_is_used_where_it_is_right(name):
    make, right = TRAINED[name]
    task = Built(make)
    result = preflight(task.model(), task, INFO)
    assert (result.way == "book-keeping") == right
    assert bool(result.reason) == bool(result.notice) == (not right)
    assert result.draws == (name in DRAWN)


@pytest.mark.parametrize("name", REFUSED)
def test_records_that_meet_and_writes_are_refused_by_name(name):
    make, named = REFUSED[name]
    task = Built(make)
    with pytest.raises(TaskError, match=named):
        preflight(task.model(), task, INFO)


@pytest.mark.parametrize("name", REFUSED_LOSSES)
def test_losses_of_several_records_are_refused(name):
    task = Built(plain, REFUSED_LOSSES[name])
    with pytest.raises(TaskError, match="records meet in losses"):
        preflight(task.model(), task, INFO)


class Standardised(Classification):
    def collate(self, records, generator):
        return {"inputs": records.features - records.features.mean(0), "targets": records.targets}


class MixedUp(Classification):
    """Mixes records where it augments, and only there."""

    def collate(self, records, generator):
        features = records.features
        if generator is not None:
            features = 0.8 * features + 0.2 * features[torch.randperm(len(features), generator=generator)]
        return {"inputs": features, "targets": records.targets}


class Augmented(Classification):
    def collate(self, records, generator):
        features = records.features
        if generator is not None:
            features = features + torch.randn(features.shape, generator=generator)
        return {"inputs": features, "targets": records.targets}


class MixedUpNowAndThen(Classification):
    """Mixes records for some draws of the generator that it is given."""

    def __init__(self, chosen):
        self.chosen = chosen

    def collate(self, records, generator):
        features = records.features
        if generator is not None and self.chosen(float(torch.rand((), generator=generator))):
            features = 0.8 * features + 0.2 * features.flip(0)
        return {"inputs": features, "targets": records.targets}


class DrawnForSome(Classification):
    """Draws for some records only, so that what others draw depends on them."""

    def collate(self, records, generator):
        features = records.features
        if generator is not None:
            draws = [torch.rand((), generator=generator) if each[0] > 0 else torch.zeros(()) for each in features]
            features = features + torch.stack(draws)[:, None]
        return {"inputs": features, "targets": records.targets}


class FlippedByPython(Classification):
    """Augments by draws that the seed of the augmentation does not repeat."""

    def collate(self, records, generator):
        flipped = generator is not None and random.random() < 0.5
        return {"inputs": records.features.flip(1) if flipped else records.features, "targets": records.targets}


@pytest.mark.parametrize(
    ("task", "named"),
    [
        (Standardised(), "records meet in collate"),
        (MixedUp(), "collate, where they are augmented"),
        (MixedUpNowAndThen(lambda drawn: drawn < 0.1), "collate, where they are augmented"),
        (MixedUpNowAndThen(lambda drawn: drawn > 0.9), "collate, where they are augmented"),
        (DrawnForSome(), "collate, where they are augmented"),
        (FlippedByPython(), "draws by Python's random, .* the generator that it is given"),
    ],
)
def test_an_encoding_that_mixes_records_is_refused(task, named):
    with pytest.raises(TaskError, match=named):
        preflight(plain(), task, INFO)


def test_an_augmentation_of_single_records_is_not():
    assert preflight(plain(), Augmented(), INFO).way == "book-keeping"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_model_that_a_configuration_names_is_trained_by_book_keeping(name):
    info = DataInfo(features=Image(shape=(1, 18, 18)), target=ClassTarget(names=("a", "b")))
    task = build_task(TaskConfig(name="vision", model=name), info)
    assert preflight(task.model(), task, info).way == "book-keeping"


@pytest.mark.parametrize("name", ["tabular", "regression", "multilabel"])
def test_every_task_on_tables_is_trained_by_book_keeping(name):
    target = {"tabular": ClassTarget(names=("a", "b")), "regression": NumberTarget()}
    info = DataInfo(features=Columns(shape=(5,)), target=target.get(name, LabelsTarget(names=("a", "b"))))
    task = build_task(TaskConfig(name=name), info)
    assert preflight(task.model(), task, info).way == "book-keeping"


def test_the_model_and_the_generators_are_as_before():
    task = Built(TRAINED["dropout"][0])
    model = task.model()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    preflight(model, task, INFO)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and not vars(parameter) for parameter in model.parameters())


class Counted(Classification):
    def __init__(self, calls):
        self.calls = lambda: calls
        self.coupled = 0.0

    def forward(self, model, batch):
        self.calls().append(len(batch["inputs"]))
        return super().forward(model, batch)

    def losses(self, outputs, batch):
        return super().losses(outputs, batch) + self.coupled * outputs.mean()


def test_it_is_remembered_for_a_task_and_what_its_model_is_made_of():
    calls = []
    task, model = Counted(calls), plain()
    first = preflight(model, task, INFO)
    tried = len(calls)
    assert tried
    assert preflight(copy.deepcopy(model), task, INFO) is first
    assert len(calls) == tried
    other = plain()
    other.first.weight.requires_grad_(False)
    preflight(other, task, INFO)
    assert len(calls) > tried


class Mixing(nn.Module):
    """A model that mixes records if an attribute says so, of one kind or another."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 5), nn.Linear(5, 3)
        self.share, self.shares, self.given = 0.0, [0.0, {"of": [0.0]}], partial(torch.mul, 0.0)
        self.constant, self.made = torch.zeros(1), lambda mean, share=[0.0]: share[0] * mean
        self.array = np.zeros(1)

    def forward(self, inputs):
        mean = inputs.mean(0)
        constants = self.share + self.shares[0] + self.shares[1]["of"][0] + self.constant + float(self.array[0])
        return self.last(torch.tanh(self.first(inputs + constants * mean + self.given(mean) + self.made(mean))))


def mixed(layer, taken, made):
    return made + made.mean(0)


CHANGES = {
    "number": lambda model: setattr(model, "share", 0.5),
    "list": lambda model: model.shares.__setitem__(0, 0.5),
    "list in a list": lambda model: model.shares[1]["of"].__setitem__(0, 0.5),
    "default": lambda model: model.made.__defaults__[0].__setitem__(0, 0.5),
    "tensor": lambda model: model.constant.fill_(0.5),
    "array": lambda model: model.array.fill(0.5),
    "partial": lambda model: setattr(model, "given", partial(torch.mul, 0.5)),
    "function": lambda model: setattr(model, "made", lambda mean: 0.5 * mean),
    "hook": lambda model: model.first.register_forward_hook(mixed),
    "forward": lambda model: setattr(model.first, "forward", lambda x: nn.Linear.forward(model.first, x + x.mean(0))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_of_another_attribute_or_hook_is_tried_again(name):
    calls = []
    task, model = Counted(calls), Mixing()
    first = preflight(model, task, INFO)
    tried = len(calls)
    with torch.no_grad():
        model.first.weight.add_(1.0)
    assert preflight(model, task, INFO) is first
    assert len(calls) == tried
    CHANGES[name](model)
    with pytest.raises(TaskError, match="records meet"):
        preflight(model, task, INFO)


def test_a_copy_of_a_model_with_attributes_is_not_tried_again():
    calls = []
    task, model = Counted(calls), Mixing()
    first = preflight(model, task, INFO)
    tried = len(calls)
    assert preflight(copy.deepcopy(model), task, INFO) is first
    assert len(calls) == tried


def coin_if_low(s, x):
    """Mix records where a coin shows 0, which is thrown for low draws alone."""
    mean = x.mean(0) if torch.rand(()) < 0.1 and not torch.bernoulli(torch.tensor(0.5)) else 0.0
    return s.last(torch.tanh(s.first(x - mean)))


def test_a_coin_that_is_thrown_for_some_draws_only_is_tried_too():
    task = Built(lambda: Model(coin_if_low, first=nn.Linear(WIDTH, 5), last=nn.Linear(5, 3)))
    with pytest.raises(TaskError, match="records meet"):
        preflight(task.model(), task, INFO)


def test_a_task_that_changed_is_tried_again(monkeypatch):
    task = Counted([])
    preflight(plain(), task, INFO)
    task.coupled = 1.0
    with pytest.raises(TaskError, match="records meet in losses"):
        preflight(plain(), task, INFO)
    task.coupled = 0.0
    preflight(plain(), task, INFO)
    monkeypatch.setattr(Counted, "losses", lambda self, outputs, batch: (outputs - outputs.mean(0)).square().sum(1))
    with pytest.raises(TaskError, match="records meet in losses"):
        preflight(plain(), task, INFO)


def trained(net, data, *, info=INFO, task=None):
    task = task or Classification()
    result = preflight(net, task, info)
    train_private(net, task, data, Training(), SETTINGS, plan(clip=CLIP, batch=1, noise=1e-3), SeededSource(5), result)


def centred_if_large(s, x):
    return s.last(torch.tanh(s.first(x - x.mean(0) if (x > 100).any() else x)))


def again_if_large(s, x):
    hidden = s.first(x)
    large = x[:, 0] > 100
    if large.any():
        hidden = hidden.clone()
        hidden[large] = s.first(torch.tanh(x[large]))
    return s.last(torch.tanh(hidden))


def sorted_if_large(s, x):
    order = x[:, 0].argsort() if (x > 100).any() else torch.arange(len(x))
    return s.last(torch.tanh(s.first(x[order]))[order.argsort()])


def weights_beside_if_large(s, x):
    hidden = s.first(x)
    return s.last(torch.tanh(hidden + functional.linear(x, s.first.weight) if (x > 100).any() else hidden))


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e38])
def test_a_record_that_is_no_number_hides_no_gradient_of_the_others(value):
    data, net = records(), plain()
    net.function = weights_beside_if_large
    trained(copy.deepcopy(net), data)
    data.features[::2, 0] += torch.linspace(300, 200, COUNT // 2)
    data.features[3] = value
    before, state = flat(net), torch.get_rng_state()
    with pytest.raises(TaskError, match=r"the gradients of single records of first\.weight are not, together, that of"):
        trained(net, data)
    assert torch.equal(flat(net), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (centred_if_large, "in the first step of the round the loss of a record"),
        (again_if_large, r"its layer first \(Linear\) is called with rows that are not the records"),
        (sorted_if_large, "in the first step of the round the gradient of a record"),
    ],
)
def test_a_branch_that_only_real_records_take_is_refused_in_the_first_step(function, named):
    data = records()
    net = plain()
    net.function = function
    trained(copy.deepcopy(net), data)
    data.features[::2, 0] += torch.linspace(300, 200, COUNT // 2)
    before = flat(net)
    with pytest.raises(TaskError, match=named) as caught:
        trained(net, data)
    assert torch.equal(flat(net), before)
    assert str(COUNT) not in str(caught.value)


def test_a_model_that_draws_is_compared_with_what_it_draws_held_still():
    data = records()
    net = plain()
    net.function = lambda s, x: sorted_if_large(s, functional.dropout(x, 0.5, s.training))
    trained(copy.deepcopy(net), data)
    data.features[::2, 0] += torch.linspace(600, 400, COUNT // 2)
    with pytest.raises(TaskError, match="in the first step of the round the gradient"):
        trained(net, data)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_record_of_a_model_in_half_precision_is_clipped_in_single_precision(dtype, monkeypatch):
    class Half(Classification):
        def collate(self, records, generator):
            return {"inputs": 30 * records.features.to(dtype), "targets": records.targets}

    def watching(found, *, std, source):
        sums.extend(total.double().flatten() for total in found)
        return with_noise(found, std=std, source=source)

    monkeypatch.setattr(private, "with_noise", watching)
    task, mechanism = Half(), plan(clip=1.0, batch=1, noise=1.0)
    for row in range(6):
        net, sums = plain().to(dtype), []
        data = records()
        one = Records(features=data.features[row : row + 1], targets=data.targets[row : row + 1])
        result = preflight(net, task, INFO)
        assert result.precision is torch.float64
        train_private(net, task, one, Training(), SETTINGS, mechanism, SeededSource(5), result)
        assert float(torch.cat(sums).norm()) <= 1 + 1e-6
        assert all(parameter.dtype is dtype and parameter.isfinite().all() for parameter in net.parameters())


def test_tied_weights_are_one_parameter_with_one_noise_and_stay_one():
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3))
    net[2].weight = net[0].weight
    task = Built(lambda: copy.deepcopy(net))
    whole = clipped_sum(Double(task), records())
    for row in (0, 5):
        assert float((whole - clipped_sum(Double(task), without(records(), row))).norm()) / CLIP <= 1 + 1e-6
    trained(net, records())
    state = net.state_dict()
    assert torch.equal(state["0.weight"], state["2.weight"])
    assert net[0].weight is net[2].weight


def wrong_rows(part, chosen):
    return honest["rows"](part, chosen) * 1.001


def short_norms(part, *, exact=False):
    return honest["squares"](part, exact=exact) * 0.99


def wrong_total(part, factors, **how):
    return honest["total"](part, factors.flip(0), **how)


honest = {name: getattr(Products, name) for name in ("rows", "squares", "total")}


@pytest.mark.parametrize(
    ("name", "planted", "why"),
    [
        ("rows", wrong_rows, r"the gradient of first\.weight is not that of each record alone"),
        ("squares", short_norms, "the norm of a record's gradient is not that of the record alone"),
        ("total", wrong_total, r"the sum of the gradients of first\.weight is not that of the records alone"),
    ],
)
def test_an_error_in_what_is_clipped_or_released_is_found(monkeypatch, name, planted, why):
    monkeypatch.setattr(Products, name, planted)
    found = preflight(plain(), Built(plain), INFO)
    assert found.way == "hooks"
    assert re.search(why, found.reason)
    assert "by Opacus' hooks, which is slower than book-keeping" in found.notice


def test_a_weight_that_no_loss_depends_on_is_named_with_what_to_do():
    def idle():
        return Model(lambda s, x: s.used(x), used=nn.Linear(WIDTH, 3), never=nn.Linear(WIDTH, 3))

    notice = preflight(idle(), Built(idle), INFO).notice
    assert "no synthetic record has a gradient of never.weight" in notice
    assert notice.endswith("it learns nothing and gets noise: leave it out of the model, or freeze it")
