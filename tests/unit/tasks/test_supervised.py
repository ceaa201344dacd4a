import pytest
import torch
from torch import nn

from fedtrain.config import TaskConfig
from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image
from fedtrain.errors import ConfigError, TaskError
from fedtrain.tasks import Records, build_task


def task(*, augment, shape=(3, 8, 8)):
    info = DataInfo(features=Image(shape=shape), target=ClassTarget(names=("a", "b")))
    return build_task(TaskConfig(augment=augment, model="linear"), info)


def pixels(n, shape=(3, 8, 8)):
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def encoded(task, features, generator):
    records = Records(features=features, targets=torch.zeros(len(features), dtype=torch.int64))
    return task.collate(records, generator)["inputs"]


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def test_pixels_become_public_constants_in_minus_one_to_one():
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    inputs = encoded(task(augment=False, shape=(1, 16, 16)), stored, None)
    assert inputs.dtype == torch.float32
    assert inputs.min() == -1
    assert inputs.max() == 1
    torch.testing.assert_close(inputs.flatten(), torch.linspace(-1, 1, 256))


def test_there_is_no_augmentation_without_a_generator_or_without_the_setting():
    stored = pixels(4)
    plain = stored / 127.5 - 1
    assert torch.equal(encoded(task(augment=True), stored, None), plain)
    generator = seeded()
    assert torch.equal(encoded(task(augment=False), stored, generator), plain)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10)])
def test_every_augmented_image_is_a_window_of_the_padded_one_or_its_mirror(shape):
    stored = pixels(40, shape)
    _, height, width = shape
    augmented = encoded(task(augment=True, shape=shape), stored, seeded())
    found = []
    for before, after in zip(stored, augmented, strict=True):
        padded = torch.zeros(shape[0], height + 8, width + 8)
        padded[:, 4:-4, 4:-4] = before / 127.5 - 1
        windows = {
            (top, left, mirror): window.flip(2) if mirror else window
            for top in range(9)
            for left in range(9)
            for mirror in (False, True)
            for window in [padded[:, top : top + height, left : left + width]]
        }
        places = [place for place, window in windows.items() if torch.equal(window, after)]
        assert len(places) == 1
        found += places
    tops, lefts, mirrors = (set(values) for values in zip(*found, strict=True))
    assert mirrors == {False, True}
    assert {min(tops), max(tops), min(lefts), max(lefts)} == {0, 8}


def test_crops_and_mirrors_are_uniform():
    # A single bright pixel in the middle shows where the window went; left of the middle or right shows the mirror.
    stored = torch.full((20_000, 1, 9, 9), 0, dtype=torch.uint8)
    stored[:, :, 4, 4] = 255
    stored[:, :, 4, 3] = 200
    augmented = encoded(task(augment=True, shape=(1, 9, 9)), stored, seeded())
    rows = (augmented == 1).any(dim=3).squeeze(1).float().mean(dim=0)
    columns = (augmented == 1).any(dim=2).squeeze(1).float().mean(dim=0)
    torch.testing.assert_close(rows, torch.full((9,), 1 / 9), rtol=0, atol=0.015)
    torch.testing.assert_close(columns, torch.full((9,), 1 / 9), rtol=0, atol=0.015)
    bright, dim = (augmented == 1).flatten(1), (augmented == 200 / 127.5 - 1).flatten(1)
    both = bright.any(dim=1) & dim.any(dim=1)
    mirrored = (dim.int().argmax(dim=1) > bright.int().argmax(dim=1))[both]
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_augmentation_draws_from_its_generator_alone():
    stored = pixels(6)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = encoded(task(augment=True), stored, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(encoded(task(augment=True), stored, seeded()), first)
    assert not torch.equal(encoded(task(augment=True), stored, seeded(6)), first)


def test_an_empty_batch_is_encoded():
    assert encoded(task(augment=True), pixels(0), seeded()).shape == (0, 3, 8, 8)


def test_stored_pixels_are_not_changed():
    stored = pixels(3)
    encoded(task(augment=True), stored, seeded())
    assert torch.equal(stored, pixels(3))


def test_a_table_is_refused():
    info = DataInfo(features=Columns(shape=(5,)), target=ClassTarget(names=("a", "b")))
    with pytest.raises(TaskError, match=r'"vision" takes data of kind "image".*set task.name = "tabular"'):
        build_task(TaskConfig(), info)


def test_a_single_class_is_refused():
    info = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("a",)))
    with pytest.raises(TaskError, match="needs at least 2 classes, and the data set has 1"):
        build_task(TaskConfig(), info)


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


NAMED = DataInfo(features=Columns(shape=(3,), names=("a", "b", "c")), target=ClassTarget(names=("x", "y")))

IMAGES = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("a", "b")))


def scaled(scaling, info=NAMED, name="tabular"):
    return build_task(TaskConfig(name=name, scaling=scaling), info)


def test_columns_are_standardised_by_the_constants_of_the_configuration():
    task = scaled("c: 10 by 2, a: -1 by 0.5")
    records = Records(features=torch.tensor([[1.0, 2.0, 3.0]]), targets=torch.tensor([0]))
    assert task.collate(records, None)["inputs"].tolist() == [[4.0, 2.0, -3.5]]
    assert task.collate(records, torch.Generator())["inputs"].tolist() == [[4.0, 2.0, -3.5]]
    assert records.features.tolist() == [[1.0, 2.0, 3.0]]


def test_columns_without_names_go_by_their_places():
    records = Records(features=torch.ones(1, 5), targets=torch.tensor([0]))
    assert scaled("number 2: 0 by 4", INFO).collate(records, None)["inputs"].tolist() == [[1, 0.25, 1, 1, 1]]


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: scaled("z: 0 by 1"), TaskError, "task.scaling names z, which this data set does not have"),
        (lambda: scaled("a: 0 by 1, a: 1 by 1"), ConfigError, "names a column twice"),
        (lambda: scaled("a: 0 by 0"), ConfigError, "is no scaling of a column"),
        (lambda: scaled("a: 0 by 1", IMAGES, "vision"), TaskError, "this data set holds image records"),
    ],
)
def test_what_cannot_be_standardised_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
