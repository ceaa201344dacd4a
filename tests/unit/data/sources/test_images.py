import numpy as np
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.errors import DataError


@pytest.fixture
def tree(tmp_path, encode):
    """Make a folder of images: file names to pixel arrays."""

    def tree(root, files):
        for name, pixels in files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels))
        return str(tmp_path / root)

    return tree


def opened(path, test_path=None, **fields):
    if test_path is None:
        fields.setdefault("test_fraction", 0.5)
    return open_store(Data(source="images", path=path, test_path=test_path, **fields), seed=0)


def grey(value, size=(3, 4)):
    return np.full(size, value)


def test_subfolders_are_classes(tree, tmp_path):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.PNG": grey(2), "dog/0.png": grey(3)})
    test = tree("test", {"dog/9.png": grey(9)})
    (tmp_path / "train" / "dog" / ".hidden").write_text("passed over")
    (tmp_path / "train" / "README.txt").write_text("passed over")
    store = opened(train, test)
    assert (store.info.kind, store.info.shape, store.info.classes) == ("image", (1, 3, 4), ("cat", "dog"))
    np.testing.assert_array_equal(store.train.features[:, 0, 0, 0], [2, 3, 1])
    np.testing.assert_array_equal(store.train.targets, [0, 1, 1])
    np.testing.assert_array_equal(store.test.features[:, 0, 0, 0], [9])
    np.testing.assert_array_equal(store.test.targets, [1])


def test_a_new_file_is_seen(tree):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    assert len(opened(train).train) == 1
    tree("train", {"cat/3.png": grey(3), "cat/4.png": grey(3)})
    assert len(opened(train).train) == 2


def test_jpeg_images_are_read(tmp_path, encode):
    for name, value in (("a", 10), ("b", 200)):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.jpg").write_bytes(encode(np.full((8, 8, 3), value), "JPEG"))
    store = opened(str(tmp_path / "train"))
    means = {int(split.targets[0]): split.features.mean() for split in (store.train, store.test)}
    assert store.info.shape == (3, 8, 8)
    assert means == {0: pytest.approx(10, abs=2), 1: pytest.approx(200, abs=2)}


def test_a_class_that_only_the_test_folder_has_is_refused(tree):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    test = tree("test", {"emu/1.png": grey(1)})
    with pytest.raises(DataError, match="class 'emu' is not in the training data, whose classes are: cat, dog"):
        opened(train, test)


def test_images_of_another_size_are_refused(tree):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    with pytest.raises(DataError, match=r"1.png: the image is 5 x 5 grey, but the first training image is 4 x 3"):
        opened(train, tree("test", {"dog/1.png": grey(1, (5, 5))}))


@pytest.mark.parametrize(("name", "words"), [("a.gif", "may hold only .jpeg, .jpg, .png"), ("a.png", "cannot be read")])
def test_other_files_are_refused(tree, tmp_path, name, words):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    (tmp_path / "train" / "cat" / name).write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=f"{name}: .*{words}"):
        opened(train)


def test_missing_and_empty_folders_are_refused(tree, tmp_path):
    with pytest.raises(DataError, match="none: there is no such folder"):
        opened(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no records: it has no subfolder"):
        opened(str(tmp_path / "empty"))
    train = tree("train", {"dog/1.png": grey(1)})
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(DataError, match="cat holds no records: there is no image"):
        opened(train)


def test_a_link_to_nothing_is_refused(tree, tmp_path):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    (tmp_path / "train" / "cat" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"3.png: cannot be read: .*No such file"):
        opened(train)


def test_training_data_is_not_accepted_as_test_data(tree):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    with pytest.raises(DataError, match="is both training and test data"):
        opened(train, train)


def test_owners_are_refused(tree):
    train = tree("train", {"dog/1.png": grey(1), "cat/2.png": grey(2)})
    with pytest.raises(DataError, match="a folder of images does not name owners"):
        opened(train, partition=Partition(kind="natural", column="writer"))
