import pytest
import torch
from torch import nn

from fedtrain.config import TaskConfig
from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image
from fedtrain.errors import TaskError
from fedtrain.tasks import Records, build_task

INFO = DataInfo(features=Columns(shape=(5,)), target=ClassTarget(names=("a", "b", "c")))


def test_features_are_taken_as_they_are():
    features = torch.randn(4, 5)
    records = Records(features=features, targets=torch.zeros(4, dtype=torch.int64))
    batch = build_task(TaskConfig(name="tabular"), INFO).collate(records, torch.Generator())
    assert batch["inputs"] is features
    assert batch["targets"] is records.targets


@pytest.mark.parametrize(("model", "layers"), [(None, 2), ("mlp", 2), ("linear", 1)])
def test_its_models(model, layers):
    built = build_task(TaskConfig(name="tabular", model=model), INFO).model()
    assert sum(isinstance(layer, nn.Linear) for layer in built.modules()) == layers


def test_images_are_refused():
    info = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("a", "b")))
    with pytest.raises(TaskError, match=r'"tabular" takes data of kind "table".*set task.name = "vision"'):
        build_task(TaskConfig(name="tabular"), info)


def test_augmentation_is_refused():
    with pytest.raises(TaskError, match=r"task\.augment = true is for images"):
        build_task(TaskConfig(name="tabular", augment=True), INFO)
