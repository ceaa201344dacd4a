import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.errors import DataError


def test_digits_are_grey_images_of_full_range():
    store = open_store(Data(), seed=3)
    assert (store.info.kind, store.info.shape) == ("image", (1, 8, 8))
    assert store.info.classes == tuple("0123456789")
    assert store.train.features.dtype == np.uint8
    assert (int(store.train.features.min()), int(store.train.features.max())) == (0, 255)
    assert (len(store.train), len(store.test)) == (1797 - 359, 359)


def test_training_and_test_records_are_all_digits_once():
    store = open_store(Data(), seed=3)
    digits = load_digits()
    levels = np.concatenate([store.train.features, store.test.features]).reshape(-1, 64) * (16 / 255)
    found = np.column_stack([np.rint(levels), np.concatenate([store.train.labels, store.test.labels])])
    known = np.column_stack([digits.data, digits.target])
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(known, axis=0))


def test_owners_are_refused():
    with pytest.raises(DataError, match=r"partition.column = 'writer': the digits do not say who wrote them"):
        open_store(Data(partition=Partition(kind="natural", column="writer")), seed=0)
