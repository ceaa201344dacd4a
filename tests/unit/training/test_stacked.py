"""Clients that train at once: what each gets, and where they train one after another."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.config import Training
from fedtrain.data import ClassTarget, Columns, DataInfo
from fedtrain.tasks import ClassificationMetrics, Records, Task
from fedtrain.training import PlainTrainer, RoundSettings
from fedtrain.training.stacked import Part, Room, StackedTrainer, why_not_stacked
from fedtrain.training.steps import seed_layers

INFO = DataInfo(features=Columns(shape=(6,)), target=ClassTarget(names=("a", "b", "c")))
COUNTS = (12, 7, 9, 12, 3, 10)
CONFIG = Training(batch_size=4, local_epochs=2, momentum=0.5)


class Rows(Task):
    """Classifies rows of a table with a given model."""

    def __init__(self, make=lambda: nn.Linear(6, 3)):
        self._make = make

    def model(self):
        torch.manual_seed(0)
        return self._make()

    def collate(self, records, generator):
        return {"inputs": records.features, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(3)


def parts_of(model, counts=COUNTS, **settings):
    draw = torch.Generator().manual_seed(5)
    return [
        Part(
            model=copy.deepcopy(model),
            records=Records(
                features=torch.randn(count, 6, generator=draw), targets=torch.randint(3, (count,), generator=draw)
            ),
            settings=RoundSettings(**{"learning_rate": 0.1, "proximal_mu": 0.0, "seed": seed} | settings),
        )
        for seed, count in enumerate(counts)
    ]


def weights(parts):
    return [[value.detach().clone() for value in part.model.parameters()] for part in parts]


def alone(task, parts, config=CONFIG):
    parts = copy.deepcopy(parts)
    losses = []
    for part in parts:
        seed_layers(part.settings.seed)
        losses.append(PlainTrainer(config=config).train(part.model, task, part.records, part.settings))
    return losses, weights(parts)


def trained(task, parts, **options):
    parts = copy.deepcopy(parts)
    return StackedTrainer(config=CONFIG, **options).train_many(task, parts), weights(parts)


class Counting(nn.Module):
    """A linear model that notes of each call whether it is one of several clients."""

    calls: list[int] = []  # noqa: RUF012 - of all copies

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs):
        Counting.calls.append(torch._C._functorch.is_batchedtensor(inputs))
        return self.layer(inputs)


def test_each_client_gets_what_it_gets_alone():
    task = Rows()
    model = task.model()
    assert why_not_stacked(model, task, INFO) == ""
    parts = parts_of(model)
    losses, right = alone(task, parts)
    found, at_once = trained(task, parts)
    assert found == pytest.approx(losses, rel=1e-5)
    for one, other in zip(at_once, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not torch.equal(at_once[0][0], at_once[1][0])


def test_they_do_train_at_once():
    task = Rows(Counting)
    parts = parts_of(task.model(), counts=(4,) * 6)
    Counting.calls.clear()
    trained(task, parts)
    assert Counting.calls == [True, True]
    Counting.calls.clear()
    trained(task, parts, why_not="somebody says so")
    assert Counting.calls == [False] * 12


def test_the_same_parts_in_the_same_order_give_the_same_bits():
    task = Rows(lambda: nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 3)))
    parts = parts_of(task.model(), counts=(40, 33, 40, 29, 40, 33, 8))
    first, second = trained(task, parts), trained(task, parts)
    assert first[0] == second[0]
    for one, other in zip(first[1], second[1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def same(found, right):
    return all(
        torch.equal(a, b) for one, other in zip(found, right, strict=True) for a, b in zip(one, other, strict=True)
    )


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def forward(self, inputs):
        return self.norm(self.layer(inputs))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs):
        return self.layer(inputs) * (2 if inputs.sum() > 0 else 1)


class Remembering(nn.Module):
    """Adds the mean of the rows of the call before."""

    def __init__(self):
        super().__init__()
        self.layer, self.before = nn.Linear(6, 3), torch.zeros(3)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        result, self.before = outputs + self.before, outputs.detach().mean(0)
        return result


class Counted(nn.Module):
    """Adds less with each call, which the last calls of a round show first."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 3), 0

    def forward(self, inputs):
        self.calls += 1
        return self.layer(inputs) * (1 if self.calls <= 8 else 0.1)


class Listing(nn.Module):
    """Notes in an object, and in a list, how many rows it has seen."""

    class Notes:
        def __init__(self):
            self.rows = []

    def __init__(self):
        super().__init__()
        self.layer, self.notes = nn.Linear(6, 3), self.Notes()

    def forward(self, inputs):
        self.notes.rows.append(len(inputs))
        return self.layer(inputs)


class Noisy(Rows):
    def collate(self, records, generator):
        batch = super().collate(records, generator)
        return batch | {"inputs": batch["inputs"] + 0.1 * torch.randn(batch["inputs"].shape)}


ONE_AFTER_ANOTHER = {
    "dropout": (Rows(lambda: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5))), "draws at random"),
    "collate that draws": (Noisy(), "draws at random"),
    "batch normalisation": (Rows(Normalised), "changes what is not trained"),
    "a branch on values": (Rows(Branching), "data-dependent control flow"),
    "a state that is a tensor": (Rows(Remembering), "notes something in its attributes"),
    "a state that is a number": (Rows(Counted), "notes something in its attributes"),
    "a state that is in an object": (Rows(Listing), "notes something in its attributes"),
    "half precision": (Rows(lambda: nn.Linear(6, 3).half()), "precision"),
}


@pytest.mark.parametrize("name", ONE_AFTER_ANOTHER)
def test_what_cannot_be_stacked_trains_one_after_another_bit_for_bit(name):
    task, reason = ONE_AFTER_ANOTHER[name]
    model = task.model()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = why_not_stacked(model, task, INFO)
    assert reason in found
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if name == "half precision":
        return
    parts = parts_of(model)
    losses, right = alone(task, parts)
    results, one_after_another = trained(task, parts, why_not=found)
    assert results == losses
    assert same(one_after_another, right)


class Late(nn.Module):
    """Is as any other with few rows, and as in the trial. With more it does what clients do each by itself."""

    def __init__(self, what):
        super().__init__()
        self.layer, self.what, self.calls = nn.Linear(6, 3), what, 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        if len(inputs) > 6:
            if self.what == "draws":
                return self.layer(functional.dropout(inputs))
            if self.what == "changes":
                self.seen += 1
            else:
                self.calls += 1
        return self.layer(inputs)


@pytest.mark.parametrize("what", ["draws", "changes", "notes"])
@pytest.mark.parametrize("counts", [(8, 9, 10, 11, 12), (8,) * 5])
def test_what_shows_only_with_real_records_trains_one_after_another_bit_for_bit(what, counts):
    task, config = Rows(lambda: Late(what)), Training(batch_size=20, local_steps=3)
    assert why_not_stacked(task.model(), task, INFO) == ""
    parts = parts_of(task.model(), counts=counts)
    losses, right = alone(task, parts, config)
    torch.manual_seed(7)
    at_once = copy.deepcopy(parts)
    assert StackedTrainer(config=config).train_many(task, at_once) == losses
    assert same(weights(at_once), right)
    assert all(int(part.model.seen) == (3 if what == "changes" else 0) for part in at_once)


def test_a_model_that_holds_its_weights_in_a_list_notes_nothing():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scales = nn.Linear(6, 3), {"all": torch.ones(3), 3: [1.0, float("nan"), None]}
            self.every = list(self.layer.parameters())

        def forward(self, inputs):
            return self.layer(inputs) * self.scales["all"]

    task = Rows(Listed)
    assert why_not_stacked(task.model(), task, INFO) == ""


def test_records_that_meet_in_a_model_are_those_of_one_client():
    class Meeting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, inputs):
            return self.layer(inputs - inputs.mean(0))

    task = Rows(Meeting)
    assert why_not_stacked(task.model(), task, INFO) == ""
    parts = parts_of(task.model())
    for one, other in zip(trained(task, parts)[1], alone(task, parts)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_parameter_that_no_loss_depends_on_stays_as_it_is():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.spare = nn.Linear(6, 3), nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return self.layer(inputs)

    task, config = Rows(Spare), Training(batch_size=4, weight_decay=0.1)
    parts = parts_of(task.model(), proximal_mu=0.5)
    StackedTrainer(config=config).train_many(task, parts)
    for part in parts:
        assert torch.equal(part.model.spare, torch.ones(2))


def test_weights_of_two_names_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.second.weight = self.first.weight

        def forward(self, inputs):
            return self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))

    task = Rows(Tied)
    assert why_not_stacked(task.model(), task, INFO) == ""
    parts = parts_of(task.model())
    for one, other in zip(trained(task, parts)[1], alone(task, parts)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", ["target", "not a number"])
def test_a_client_with_bad_records_takes_nobody_with_it(bad):
    task = Rows()
    parts = parts_of(task.model())
    if bad == "target":
        parts[2].records.targets[0] = 7
    else:
        parts[2].records.features[0] = torch.nan
    found, at_once = trained(task, parts)
    good = [0, 1, 3, 4, 5]
    _, right = alone(task, [parts[place] for place in good])
    for one, other in zip([at_once[place] for place in good], right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert all(isinstance(found[place], float) for place in good)
    if bad == "target":
        assert isinstance(found[2], IndexError)
        assert torch.equal(at_once[2][0], task.model().weight)
    else:
        assert at_once[2][0].isnan().any()


def test_a_task_that_leaves_by_exit_ends_its_own_client_alone():
    class Leaving(Rows):
        def collate(self, records, generator):
            if bool((records.targets == 7).any()):
                raise SystemExit(3)
            return super().collate(records, generator)

    task = Leaving()
    parts = parts_of(task.model())
    parts[4].records.targets[:] = 7
    found, _ = trained(task, parts)
    assert [type(each) for each in found] == [float] * 4 + [SystemExit, float]


@pytest.mark.parametrize("change", ["rate", "buffer", "frozen"])
def test_clients_that_differ_in_more_than_their_records_train_one_after_another(change):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.fixed = nn.Linear(6, 3), nn.Parameter(torch.ones(3), requires_grad=False)
            self.register_buffer("scale", torch.ones(3))

        def forward(self, inputs):
            return self.layer(inputs) * self.scale * self.fixed

    task = Rows(Scaled)
    parts = parts_of(task.model())
    if change == "rate":
        parts[1] = Part(
            model=parts[1].model,
            records=parts[1].records,
            settings=RoundSettings(learning_rate=0.2, proximal_mu=0.0, seed=1),
        )
    else:
        value = parts[1].model.scale if change == "buffer" else parts[1].model.fixed
        value.data.mul_(3)
    losses, right = alone(task, parts)
    found, one_after_another = trained(task, parts)
    assert found == losses
    assert same(one_after_another, right)


class Crowded(nn.Module):
    """A linear model on a device with room for so many rows in a call, those of all clients together."""

    room = 0
    tried: list[int] = []  # noqa: RUF012 - of all copies

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs):
        at_once = inputs
        while torch._C._functorch.is_batchedtensor(at_once):
            at_once = torch._C._functorch.get_unwrapped(at_once)
        rows = at_once.numel() // 6
        Crowded.tried.append(rows)
        if rows > Crowded.room:
            raise torch.OutOfMemoryError(f"no room for {rows} rows")
        return self.layer(inputs)


def test_without_memory_for_all_clients_train_in_halves_and_so_do_those_after_them(monkeypatch):
    task = Rows(Crowded)
    parts = parts_of(task.model(), counts=(4,) * 16)
    monkeypatch.setattr(Crowded, "room", 64)
    losses, right = alone(task, parts)
    monkeypatch.setattr(Crowded, "room", 20)
    Crowded.tried.clear()
    trainer, first = StackedTrainer(config=CONFIG), copy.deepcopy(parts)
    found = trainer.train_many(task, first)
    # All 16 clients of 4 records find no room, then 8; from then on 4 train at once, two steps each.
    assert Crowded.tried == [64, 32, *[16] * 8]
    assert trainer.room.most == 4
    assert found == pytest.approx(losses, rel=1e-5)
    for one, other in zip(weights(first), right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    Crowded.tried.clear()
    second = copy.deepcopy(parts)
    assert trainer.train_many(task, second) == found
    assert Crowded.tried == [16] * 8
    assert same(weights(second), weights(first))


def test_a_client_without_memory_for_itself_fails_alone(monkeypatch):
    task = Rows(Crowded)
    parts = parts_of(task.model(), counts=(2, 2, 4, 2, 2))
    monkeypatch.setattr(Crowded, "room", 3)
    found, _ = trained(task, parts, room=Room())
    assert [type(each) for each in found] == [float, float, torch.OutOfMemoryError, float, float]
