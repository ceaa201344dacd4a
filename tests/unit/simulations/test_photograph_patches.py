"""The features of images that an experiment takes from public photographs."""

import pytest
import torch

from fedtrain.data import ClassTarget, DataInfo, Image, Text
from fedtrain.encoders.base import digest_of
from fedtrain.errors import TaskError

TARGET = ClassTarget(names=("a", "b"))


def test_features_have_norm_1_and_the_constants_do_not_depend_on_threads(script):
    module = script("photograph_patches")
    one = module.PhotographPatches(16)
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert one(image).shape == (1, 9, 1024)
    assert one(image).norm().item() == pytest.approx(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        other = module.PhotographPatches(16)
    finally:
        torch.set_num_threads(threads)
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 20), (3, 8, 8)])
def test_other_images_are_refused(script, shape):
    with pytest.raises(TaskError, match="square colour images"):
        script("photograph_patches").build(DataInfo(features=Image(shape=shape), target=TARGET))


def test_texts_are_refused(script):
    with pytest.raises(TaskError, match="square colour images"):
        script("photograph_patches").build(DataInfo(features=Text(shape=(64,)), target=TARGET))
