"""What a task may return, and what of it is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtrain.errors import TaskError
from fedtrain.tasks import Records, refuse_batch_statistics, shared_names
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


class Residual(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3)
        self.bn1 = norm


def resnet(norm):
    model = nn.Module()
    model.layer1 = nn.Sequential(Residual(norm))
    return model


@pytest.mark.parametrize(
    ("norm", "line"),
    [
        (nn.BatchNorm1d(64), "layer1.0.bn1: BatchNorm1d(64) by nn.GroupNorm(8, 64)"),
        (nn.BatchNorm2d(64), "layer1.0.bn1: BatchNorm2d(64) by nn.GroupNorm(8, 64)"),
        (nn.BatchNorm2d(12), "layer1.0.bn1: BatchNorm2d(12) by nn.GroupNorm(4, 12)"),
        (nn.BatchNorm2d(7), "layer1.0.bn1: BatchNorm2d(7) by nn.GroupNorm(1, 7)"),
        (nn.BatchNorm3d(16), "layer1.0.bn1: BatchNorm3d(16) by nn.GroupNorm(8, 16)"),
        (nn.BatchNorm2d(64, track_running_stats=False), "layer1.0.bn1: BatchNorm2d(64) by nn.GroupNorm(8, 64)"),
        (nn.BatchNorm2d(64).eval(), "layer1.0.bn1: BatchNorm2d(64) by nn.GroupNorm(8, 64)"),
        (nn.SyncBatchNorm(32), "layer1.0.bn1: SyncBatchNorm(32) by nn.GroupNorm(8, 32)"),
        (nn.LazyBatchNorm2d(), "layer1.0.bn1: LazyBatchNorm2d() by nn.GroupNorm(groups, channels), where"),
        (
            nn.InstanceNorm2d(6, track_running_stats=True),
            "layer1.0.bn1: InstanceNorm2d(6) by nn.GroupNorm(6, 6)",
        ),
    ],
)
def test_statistics_over_records_are_refused_with_the_layer_and_its_replacement(norm, line):
    with pytest.raises(TaskError) as refused:
        refuse_batch_statistics(resnet(norm))
    assert f"\n  {line}" in str(refused.value)
    assert "mix records" in str(refused.value)
    assert "neither clipped nor noised" in str(refused.value)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(8, 64), nn.LayerNorm(64), nn.InstanceNorm2d(64), nn.InstanceNorm2d(64, affine=True)]
)
def test_normalisation_within_a_record_is_accepted(norm):
    refuse_batch_statistics(resnet(norm))


def test_every_layer_is_named():
    with pytest.raises(TaskError) as refused:
        refuse_batch_statistics(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8)))
    assert str(refused.value).splitlines()[1:] == [
        "  0: BatchNorm1d(4) by nn.GroupNorm(4, 4)",
        "  2: BatchNorm1d(8) by nn.GroupNorm(8, 8)",
    ]


def test_a_model_that_is_itself_a_batch_norm():
    with pytest.raises(TaskError, match="the model itself: BatchNorm1d"):
        refuse_batch_statistics(nn.BatchNorm1d(4))


def test_the_replacement_of_instance_norm_is_instance_norm():
    inputs = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(nn.GroupNorm(6, 6)(inputs), nn.InstanceNorm2d(6)(inputs))
