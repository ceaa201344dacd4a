import pytest
import torch
from torch import nn

from fedtrain.errors import TaskError
from fedtrain.tasks import refuse_batch_statistics


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
