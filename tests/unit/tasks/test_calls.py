"""What a task may return, and what of it is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.errors import TaskError
from fedtrain.tasks import Records, shared_names
from fedtrain.tasks.calls import collate, forward, losses, refuse_coupled_losses, split
from tests.unit.training.mechanism import Classification, model, records


def task(**methods):
    """Return a task with some methods of its own."""
    return type("Planted", (Classification,), {name: staticmethod(method) for name, method in methods.items()})()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(20, 4), "a dict of tensors by name"),
        ({}, "a dict of tensors by name"),
        ({"inputs": [1, 2]}, "a dict of tensors by name"),
        ({"inputs": torch.zeros(20, 4), "mask": torch.zeros(19)}, "'mask' without one row for each record"),
        ({"inputs": torch.tensor(1.0)}, "'inputs' without one row for each record"),
    ],
)
def test_a_batch_has_a_row_for_each_record(batch, message):
    with pytest.raises(TaskError, match=message):
        collate(task(collate=lambda records, generator: batch), records(), None)


@pytest.mark.parametrize("outputs", [torch.zeros(3, 3), torch.tensor(1.0), (torch.zeros(20, 3),)])
def test_outputs_have_a_row_for_each_record(outputs):
    with pytest.raises(TaskError, match="one tensor with a row of outputs for each record"):
        forward(task(forward=lambda net, batch: outputs), model(), collate(Classification(), records(), None))


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (torch.tensor(1.0), "0 dimensions"),
        (torch.zeros(20, 3), "2 dimensions"),
        (torch.zeros(19), "1 dimensions"),
        (torch.zeros(20, dtype=torch.int64), "1 dimensions"),
        (None, "NoneType"),
    ],
)
def test_losses_are_one_number_for_each_record(found, kind):
    batch = collate(Classification(), records(), None)
    with pytest.raises(TaskError, match=rf"returned a?.*{kind}: leave the mean to the trainer"):
        losses(task(losses=lambda outputs, batch: found), torch.zeros(20, 3), batch)


def single(outputs, batch):
    return functional.cross_entropy(outputs, batch["targets"], reduction="none")


WEIGHT = torch.tensor([1.0, 5.0, 20.0])
COUPLED = {
    "divided by the batch's weights": lambda o, b: (
        functional.cross_entropy(o, b["targets"], weight=WEIGHT, reduction="none") / WEIGHT[b["targets"]].sum()
    ),
    "the mean for each": lambda o, b: single(o, b).mean().expand(len(o)),
    "the hardest half": lambda o, b: torch.where(single(o, b) >= single(o, b).median(), single(o, b), 0.0),
    "centred": lambda o, b: single(o - o.mean(0), b),
    "other records as negatives": lambda o, b: functional.cross_entropy(
        o @ o.T, torch.arange(len(o)), reduction="none"
    ),
}


@pytest.mark.parametrize("name", COUPLED)
def test_losses_that_compare_records_are_refused(name):
    planted, batch = task(losses=COUPLED[name]), collate(Classification(), records(), None)
    outputs = model()(batch["inputs"])
    with pytest.raises(TaskError, match="records are in the gradients of other records") as refused:
        refuse_coupled_losses(planted, outputs, batch, losses(planted, outputs, batch))
    assert "20" not in str(refused.value)


@pytest.mark.parametrize(
    "allowed",
    [
        single,
        lambda o, b: functional.cross_entropy(o, b["targets"], weight=WEIGHT, reduction="none"),
        lambda o, b: single(o.half(), b),
        lambda o, b: torch.full((len(o),), math.nan),
    ],
)
@pytest.mark.parametrize("count", [1, 5, 20])
def test_losses_of_single_records_are_allowed(allowed, count):
    planted, batch = task(losses=allowed), collate(Classification(), records(count), None)
    outputs = model()(batch["inputs"])
    refuse_coupled_losses(planted, outputs, batch, losses(planted, outputs, batch))


def test_a_batch_is_cut_in_all_its_tensors():
    batch = {"inputs": torch.arange(10).reshape(5, 2), "targets": torch.arange(5)}
    parts = split(batch, 2)
    assert [len(part["targets"]) for part in parts] == [2, 2, 1]
    for name, value in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)


def test_records_are_taken_in_the_order_of_the_rows():
    data = Records(features=torch.arange(4.0), targets=torch.arange(4))
    assert data.take(torch.tensor([2, 0])).targets.tolist() == [2, 0]
    assert data.take(slice(1, 3)).features.tolist() == [1.0, 2.0]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(2))


def test_a_task_shares_some_or_all_of_what_is_trained():
    assert shared_names(Classification(), Counting()) == {"dense.weight", "dense.bias"}
    assert shared_names(task(shared=lambda net: frozenset({"dense.bias"})), Counting()) == {"dense.bias"}


@pytest.mark.parametrize("name", ["mean", "frozen.weight", "absent"])
def test_what_is_not_trained_is_never_shared(name):
    planted = task(shared=lambda net: frozenset({"dense.bias", name}))
    with pytest.raises(TaskError, match=f"the task shares {name}, which is no trainable parameter"):
        shared_names(planted, Counting())


def test_a_task_that_shares_nothing_is_refused():
    with pytest.raises(TaskError, match="the task shares nothing"):
        shared_names(task(shared=lambda net: ()), Counting())
