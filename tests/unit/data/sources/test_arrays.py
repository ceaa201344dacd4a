from hashlib import sha256

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.data.sources.arrays import digits
from fedtrain.errors import DataError, StorageError


@pytest.fixture
def save(tmp_path):
    def save(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return save


def opened(path, test_path=None, **fields):
    if test_path is None:
        fields.setdefault("test_fraction", 0.5)
    return open_store(Data(source="npz", path=path, test_path=test_path, **fields), seed=0)


def test_classes_are_their_values_whatever_archive_has_them_first(save):
    train = save("train.npz", x=np.zeros((3, 1)), y=np.array(["dog", "cat", "emu"]))
    test = save("test.npz", x=np.zeros((3, 1)), y=np.array(["emu", "dog", "dog"]))
    store = opened(train, test)
    assert store.info.classes == ("cat", "dog", "emu")
    np.testing.assert_array_equal(store.train.targets, [1, 0, 2])
    np.testing.assert_array_equal(store.test.targets, [2, 1, 1])


def pixels(*shape):
    return np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "order", "stored"),
    [
        ((4, 5, 6), None, (1, 5, 6)),
        ((4, 5, 6, 3), (0, 3, 1, 2), (3, 5, 6)),
        ((4, 5, 6, 1), (0, 3, 1, 2), (1, 5, 6)),
        ((4, 3, 5, 6), (0, 1, 2, 3), (3, 5, 6)),
        ((4, 1, 5, 6), (0, 1, 2, 3), (1, 5, 6)),
    ],
)
def test_uint8_arrays_are_images_stored_channels_first(save, shape, order, stored):
    x = pixels(*shape)
    y = np.array([0, 1, 1, 0])
    store = opened(save("train.npz", x=x, y=y), save("test.npz", x=x[:2], y=y[:2]))
    assert (store.info.kind, store.info.shape, store.info.classes) == ("image", stored, ("0", "1"))
    expected = x[:, None] if order is None else x.transpose(order)
    np.testing.assert_array_equal(store.train.features, expected)
    np.testing.assert_array_equal(store.test.features, expected[:2])
    np.testing.assert_array_equal(store.train.targets, y)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8, np.bool_])
def test_numbers_of_two_dimensions_are_a_table(save, dtype):
    x = np.array([[0, 1], [1, 1], [1, 0], [0, 0]]).astype(dtype)
    y = np.array(["no", "yes", "no", "yes"])
    store = opened(save("train.npz", x=x, y=y), save("test.npz", x=x[:1], y=y[:1]))
    assert (store.info.kind, store.info.shape, store.info.classes) == ("table", (2,), ("no", "yes"))
    assert store.train.features.dtype == np.float32
    np.testing.assert_array_equal(store.train.features, x.astype(np.float32))
    np.testing.assert_array_equal(store.train.targets, [0, 1, 0, 1])


def test_one_archive_can_hold_both_sets(save):
    path = save(
        "both.npz", x_train=pixels(3, 2, 2), y_train=np.array([0, 1, 0]), x_test=pixels(1, 2, 2), y_test=np.array([1])
    )
    store = opened(path, path)
    assert (len(store.train), len(store.test)) == (3, 1)


def test_one_archive_with_one_set_is_not_accepted_as_both(save):
    path = save("train.npz", x=pixels(3, 2, 2), y=np.array([0, 1, 0]))
    with pytest.raises(DataError, match="is both training and test data"):
        opened(path, path)


@pytest.mark.parametrize("suffix", ["", "_train"])
def test_owners(save, suffix):
    arrays = {"x": pixels(4, 2, 2), "y": np.array([0, 1, 0, 1]), "writer": np.array(["eve", "bob", "eve", "ann"])}
    train = save("train.npz", **{name + suffix: array for name, array in arrays.items()})
    test = save("test.npz", x=pixels(1, 2, 2), y=np.array([0]))
    store = opened(train, test, partition=Partition(kind="natural", column="writer"))
    np.testing.assert_array_equal(store.train.owners, [2, 1, 2, 0])
    assert store.owners == ("ann", "bob", "eve")
    with pytest.raises(DataError, match=f"there is no array 'owner{suffix}'; the archive holds: x"):
        opened(train, test, partition=Partition(kind="natural", column="owner"))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": pixels(2, 2, 2)}, "there is no array 'y'; the archive holds: x"),
        ({"y": np.array([0, 1])}, "there is no array 'x'; the archive holds: y"),
        ({"x": pixels(2, 5, 5, 2), "y": np.array([0, 1])}, r"x has shape \(2, 5, 5, 2\): neither"),
        ({"x": pixels(2, 2, 2) / 2, "y": np.array([0, 1])}, r"x has shape \(2, 2, 2\) and dtype float64; allowed"),
        ({"x": np.array(["a", "b"]), "y": np.array([0, 1])}, r"x has shape \(2,\) and dtype <U1; allowed"),
        ({"x": np.array(1), "y": np.array([0, 1])}, "x holds no records"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "x holds no records"),
        ({"x": np.array([[1.0, 2], [3, np.nan]]), "y": np.array([0, 1])}, "x, row 1, column 1: nan is not a finite"),
        ({"x": np.array([[1.0, np.inf], [3, 4]]), "y": np.array([0, 1])}, "x, row 0, column 1: inf is not a finite"),
        ({"x": np.array([[1.0, 1e39], [3, 4]]), "y": np.array([0, 1])}, "x, row 0, column 1: 1e.39 is not a finite"),
        ({"x": pixels(2, 2, 2), "y": np.array([0, 1, 1])}, r"y has shape \(3,\) and dtype int64; allowed"),
        ({"x": pixels(2, 2, 2), "y": np.array([[0], [1]])}, r"y has shape \(2, 1\) and dtype int64; allowed"),
        ({"x": pixels(2, 2, 2), "y": np.array([0.0, 1.0])}, r"y has shape \(2,\) and dtype float64; allowed"),
        ({"x": pixels(2, 2, 2), "y": np.array([0, -2])}, "y, row 1: label -2 is negative"),
        ({"x": pixels(2, 2, 2), "y": np.array([0, None])}, "y cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_malformed_arrays_are_refused(save, arrays, words):
    with pytest.raises(DataError, match=rf"bad.npz.*{words}"):
        opened(save("bad.npz", **arrays))


def test_test_arrays_must_match(save):
    train = save("train.npz", x=pixels(2, 4, 4), y=np.array([0, 1]))
    with pytest.raises(DataError, match=r"x_test holds records of shape \(1, 4, 5\), but .* shape \(1, 4, 4\)"):
        opened(train, save("test.npz", x_test=pixels(2, 4, 5), y_test=np.array([0, 1])))
    with pytest.raises(DataError, match=r"test.npz, y, row 1: label 2 is not one of the 2 known: 0, 1"):
        opened(train, save("test.npz", x=pixels(2, 4, 4), y=np.array([0, 2])))


def test_files_that_are_no_archives_are_refused(save, tmp_path):
    with pytest.raises(DataError, match=r"none.npz: there is no such file"):
        opened(str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match=r"text.npz: cannot be read as a NumPy archive"):
        opened(str(tmp_path / "text.npz"))
    np.save(tmp_path / "single.npy", pixels(2, 2))
    with pytest.raises(DataError, match=r"single.npy: is a single array"):
        opened(str(tmp_path / "single.npy"))
    path = save("cut.npz", x=np.random.default_rng(0).normal(size=(50, 50)), y=np.arange(50))
    content = bytearray((tmp_path / "cut.npz").read_bytes())
    content[1000:2000] = bytes(1000)
    (tmp_path / "cut.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"cut.npz: x cannot be read"):
        opened(path)


# Of the images and then the labels.
DIGEST = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_digits_are_grey_images_of_full_range():
    store = open_store(Data(), seed=3)
    assert (store.info.kind, store.info.shape) == ("image", (1, 8, 8))
    assert store.info.classes == tuple("0123456789")
    assert store.train.features.dtype == np.uint8
    assert (int(store.train.features.min()), int(store.train.features.max())) == (0, 255)
    assert (len(store.train), len(store.test)) == (1797 - 359, 359)


def test_training_and_test_records_are_all_digits_once():
    store = open_store(Data(), seed=3)
    known = load_digits()
    levels = np.concatenate([store.train.features, store.test.features]).reshape(-1, 64) * (16 / 255)
    found = np.column_stack([np.rint(levels), np.concatenate([store.train.targets, store.test.targets])])
    expected = np.column_stack([known.data, known.target])
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(expected, axis=0))


def test_owners_are_refused():
    with pytest.raises(DataError, match=r"partition.column = 'writer': the digits do not say who wrote them"):
        open_store(Data(partition=Partition(kind="natural", column="writer")), seed=0)


def test_the_file_of_the_package_is_the_digits_of_scikit_learn():
    images, labels = digits()
    known = load_digits()
    np.testing.assert_array_equal(images, known.images)
    np.testing.assert_array_equal(labels, known.target)
    assert [str(name) for name in known.target_names] == list("0123456789")


def test_the_digits_are_these_very_bytes():
    images, labels = digits()
    assert (images.dtype, images.shape, labels.dtype, labels.shape) == (np.uint8, (1797, 8, 8), np.uint8, (1797,))
    assert sha256(images.tobytes() + labels.tobytes()).hexdigest() == DIGEST


@pytest.mark.parametrize("shape", [(4, 0), (4, 0, 8), (4, 8, 0), (4, 8, 8, 0)])
def test_records_without_a_value_are_refused(tmp_path, shape):
    np.savez(tmp_path / "empty.npz", x=np.zeros(shape, np.uint8), y=[0, 1, 0, 1])
    with pytest.raises(DataError, match=r"empty.npz: x has shape .*: its records hold no value"):
        open_store(Data(source="npz", path=str(tmp_path / "empty.npz"), test_fraction=0.5), seed=0)


@pytest.mark.parametrize("source", ["npz", "parquet", "images", "hub"])
def test_the_home_of_a_user_who_is_not_there_is_refused(source):
    where = {"dataset" if source == "hub" else "path": "~nobody-of-that-name/x"}
    with pytest.raises(DataError, match="there is no user of that name on this machine"):
        open_store(Data(source=source, test_fraction=0.5, **where), seed=0)


def test_a_cache_at_a_home_that_is_not_there_is_refused():
    with pytest.raises(StorageError, match=r"there is no user of that name .*FEDTRAIN_CACHE"):
        open_store(Data(cache="~nobody-of-that-name/x"), seed=0)
