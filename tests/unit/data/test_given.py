"""Map-style data sets of the calling program."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from fedtrain.config import Data, Partition
from fedtrain.data import DataInfo, Image, Split, Text, TextTarget
from fedtrain.data.given import check_store, opened
from fedtrain.data.types import DataStore
from fedtrain.errors import DataError


class Items(Dataset):
    """A data set whose items are what a function returns for their index; it counts what is read."""

    def __init__(self, count, item):
        self.count, self.item, self.read = count, item, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return self.item(index)


def section(**fields):
    return Data(source="object", **fields)


def both(items, **fields):
    """Open a data set as training and as test records."""
    store, _ = opened((items, items), section(**fields))
    return store


def table(index):
    return torch.tensor([index, index / 2]), index % 3


def test_items_become_records_in_their_order():
    train, test = Items(6, table), Items(3, table)
    store, kept = opened((train, test), section(partition=Partition(kind="dirichlet"), cache="here"))
    assert (store.info.kind, store.info.shape, store.info.classes) == ("table", (2,), ("0", "1", "2"))
    np.testing.assert_array_equal(store.train.features[:, 0], range(6))
    np.testing.assert_array_equal(store.train.targets, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(store.test.features[:, 1], [0, 0.5, 1])
    assert (store.train.features.dtype, store.train.targets.dtype, store.folder) == (np.float32, np.int64, None)
    assert (kept.source, kept.partition.kind, kept.cache) == ("object", "dirichlet", "here")


def test_each_item_is_read_in_order_and_some_again():
    items = Items(100, table)
    opened((items, Items(3, table)), section())
    assert items.read[:100] == list(range(100))
    assert len(items.read) == 132
    assert {0, 99} <= set(items.read[100:])


@pytest.mark.parametrize(
    ("item", "shape"),
    [
        (lambda index: (torch.full((3, 4, 5), index, dtype=torch.uint8), index % 2), (3, 4, 5)),
        (lambda index: (np.full((4, 5, 3), index, np.uint8), np.int32(index % 2)), (3, 4, 5)),
        (lambda index: (torch.full((4, 5), index, dtype=torch.uint8), torch.tensor(index % 2)), (1, 4, 5)),
        (lambda index: [np.full(7, index, np.float16), "ab"[index % 2]], (7,)),
        (lambda index: (index, index % 2), (1,)),
        (lambda index: (index if index % 2 else index + 0.0, index % 2), (1,)),
    ],
    ids=["tensors", "arrays", "grey", "strings", "numbers", "integers and floats"],
)
def test_tensors_arrays_and_numbers_are_features(item, shape):
    store = both(Items(4, item))
    assert store.info.shape == shape
    assert store.train.features.reshape(4, -1)[:, 0].tolist() == [0, 1, 2, 3]
    assert store.train.targets.tolist() == [0, 1, 0, 1]


def test_a_tensor_data_set_and_a_part_of_one_are_data_sets():
    x, y = torch.rand(10, 3), torch.arange(10) % 2
    store = both(Subset(TensorDataset(x, y), [7, 2, 5]))
    np.testing.assert_array_equal(store.train.features, x[[7, 2, 5]].numpy())
    np.testing.assert_array_equal(store.train.targets, [1, 0, 1])


def test_the_experiment_says_what_the_targets_are():
    numbers = both(Items(4, lambda index: (np.zeros(2), index / 2)), target="number")
    assert (numbers.info.target.kind, numbers.train.targets.tolist()) == ("number", [0, 0.5, 1, 1.5])
    labels = both(Items(4, lambda index: (np.zeros(2), torch.tensor([index % 2, 1]))), target="labels", classes="a, b")
    assert (labels.info.classes, labels.train.targets.tolist()) == (("a", "b"), [[0, 1], [1, 1]] * 2)
    classes = both(Items(4, lambda index: (np.zeros(2), "yn"[index % 2])), classes="y, n, unknown")
    assert (classes.info.classes, classes.train.targets.tolist()) == (("y", "n", "unknown"), [0, 1, 0, 1])


def test_a_test_class_needs_a_name_or_a_training_record():
    train, test = Items(4, lambda index: (np.zeros(2), index % 2)), Items(4, lambda index: (np.zeros(2), index))
    with pytest.raises(DataError, match=r"the test data set, y, row 2: label 2 is not one of the 2 known: 0, 1"):
        opened((train, test), section())
    assert len(opened((train, test), section(classes="0, 1, 2, 3"))[0].info.classes) == 4


def test_memory_that_a_data_set_uses_again_is_copied():
    features, target = np.zeros(2, np.float32), np.zeros((), np.int64)

    def item(index):
        features[:], target[...] = index, index % 2
        return features, target

    store = both(Items(4, item))
    assert store.train.features[:, 0].tolist() == [0, 1, 2, 3]
    assert store.train.targets.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("part", ["features", "target"])
def test_items_that_change_between_reads_are_refused(part):
    generator = np.random.default_rng(0)

    def item(index):
        noise = float(generator.normal())
        return ([index, noise][part == "features"], [index, noise][part == "target"])

    with pytest.raises(DataError, match=r"the training data set, item 0 is another each time .*charge.*task.augment"):
        both(Items(5, item), target="number")


def test_an_item_of_many_that_changes_is_found_wherever_random_transforms_are_drawn():
    generator = np.random.default_rng(1)

    def item(index):
        image = np.arange(12, dtype=np.uint8).reshape(3, 4) + index
        return (image[:, ::-1] if generator.random() < 0.5 else image), 0

    with pytest.raises(DataError, match="is another each time that it is read"):
        both(Items(200, item))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([table(0), table(1)])

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (Stream(), r"the training data set is an IterableDataset, .*list\(dataset\)"),
        ({"a": 1}, r"is a dict, which has no items by index; allowed: data=\(train, test\)"),
        ("text", "is a str, which has no items by index"),
        (7, "is a int, which has no items by index"),
        (
            TensorDataset,
            "the training data set does not say how many items it has: TypeError: object of type 'type' has",
        ),
        (Items(-1, table), "the training data set does not say how many items it has: ValueError: "),
        (Items(0, table), "the training data set holds no records"),
        (Items(2, lambda index: {"image": 1}), "the training data set, item 0 is a dict; it is to be a pair"),
        (Items(2, lambda index: (1, 2, 3)), "item 0 is a tuple; it is to be a pair: features and target"),
        (Items(2, lambda index: (np.zeros(2), 1 // (1 - index))), "item 1 cannot be read: ZeroDivisionError: "),
        (
            Items(2, lambda index: ({"a": 1}, 0)),
            "item 0, features: found a dict; allowed: a tensor, an array or a number; a model has one input",
        ),
        (Items(2, lambda index: ("text", 0)), "item 0, features: found a str; allowed: a tensor"),
        (Items(2, lambda index: (1, None)), "item 0, target: found a NoneType; allowed: .* or a string"),
        (Items(2, lambda index: (1, 2**70)), "item 0, target: found a int of object"),
        (Items(2, lambda index: (np.array([None]), 0)), "features: found a ndarray of object"),
        (Items(2, lambda index: (np.ma.masked_array([1.0], [True]), 0)), "features: found an array with missing"),
        (Items(2, lambda index: (torch.zeros(2, dtype=torch.bfloat16), 0)), "features: no array can be made of it"),
        (
            Items(3, lambda index: (np.zeros(2 + index // 2), 0)),
            r"item 2 has features of shape \(3,\) and dtype float64, and item 0 of shape \(2,\)",
        ),
        (
            Items(3, lambda index: (np.zeros(2, np.float32 if index else np.uint8), 0)),
            "item 1 has features of .* dtype float32, and item 0 of .* dtype uint8; all items have the same",
        ),
        (Items(3, lambda index: (np.zeros(2), 0.5 if index else 1)), "item 1 has a target of .* dtype float64"),
        (
            Items(2, lambda index: (np.zeros((3, 4, 4)), 0)),
            "the training data set: x has shape .*allowed: uint8 images",
        ),
        (Items(2, lambda index: (np.array([0, np.nan]), 0)), "the training data set: x, row 0, column 1: nan is not"),
        (Items(2, lambda index: (np.zeros(2), -1)), "the training data set, y, row 0: label -1 is negative"),
    ],
)
def test_what_is_no_data_set_of_records_is_refused(items, words):
    with pytest.raises(DataError, match=words):
        opened((items, Items(2, table)), section())


def test_errors_name_the_test_data_set_too():
    with pytest.raises(DataError, match="the test data set is an IterableDataset"):
        opened((Items(2, table), Stream()), section())


def test_a_data_set_alone_is_refused_since_a_test_is_needed():
    with pytest.raises(DataError, match=r"data is a Items, and a fedtrain.DataStore.*or data=\(train, test\)"):
        opened(Items(2, table), section())


def test_fields_that_choose_records_are_refused():
    with pytest.raises(DataError, match=r"data.max_records is set, and the records are an object"):
        opened((Items(2, table), Items(2, table)), section(max_records=3))


def test_a_store_keeps_the_names_of_its_owners_and_needs_one_for_each_code():
    store, _ = opened((Items(4, table), Items(3, table)), section())
    owned = replace(store, train=replace(store.train, owners=np.array([1, 0, 1, 1])), owners=("ann", "bob"))
    assert opened(owned, section())[0].owners == ("ann", "bob")
    for strange in (replace(owned, owners=("ann",)), replace(store, owners=("ann",))):
        with pytest.raises(DataError, match=r"data\.owners has 1 names; each code in data\.train\.owners is an index"):
            opened(strange, section())


def texts(count, *, targets=None, features=None):
    """Return a store of texts that are their own targets."""
    stored = np.full((count, 8), ord("a"), np.uint8) if features is None else features
    split = Split(features=stored, targets=np.zeros((count, 0), np.uint8) if targets is None else targets)
    return DataStore(info=DataInfo(features=Text(shape=(8,)), target=TextTarget()), train=split, test=split)


def test_texts_may_be_their_own_targets():
    store = check_store(texts(3))
    assert store.train.targets.shape == (3, 0)
    with pytest.raises(
        DataError, match=r"train.targets has shape \(3,\) and dtype uint8; it is uint8 of shape \(n, 0\)"
    ):
        check_store(texts(3, targets=np.zeros(3, np.uint8)))
    strange = replace(texts(3), info=DataInfo(features=Image(shape=(8,)), target=TextTarget()))
    with pytest.raises(DataError, match='a target of kind "text" is for texts or tokens'):
        check_store(strange)


def test_items_of_a_data_set_are_no_texts():
    with pytest.raises(DataError, match=r'data.target = "text" is for records that are texts, and arrays hold none'):
        both(Items(4, table), target="text")
