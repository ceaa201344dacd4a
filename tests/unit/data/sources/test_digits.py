from hashlib import sha256

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.data.sources.digits import digits
from fedtrain.errors import DataError

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
