"""Files that number or name their columns in ways of their own are put right, or refused by the names of both."""

import numpy as np
import pyarrow as pa
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.errors import DataError

ANIMALS = ["cat", "dog", "dog", "emu"]
FIRST, OTHER = ["cat", "dog", "emu"], ["emu", "cat", "dog"]


def named(*names, column="label"):
    return {column: {"names": list(names), "_type": "ClassLabel"}}


def labelled(animals, names, **columns):
    """Columns of a table whose feature tells which animal a record is."""
    return {
        "a": [float(FIRST.index(animal)) for animal in animals],
        **columns,
        "label": [names.index(a) for a in animals],
    }


def opened(path, test_path, **fields):
    return open_store(Data(source="parquet", path=str(path), test_path=test_path, **fields), seed=0)


@pytest.fixture
def shards(parquet, tmp_path):
    """Write two training files and a test file; a value is the columns and the metadata of one."""

    def write(first, second, test=None):
        parquet("train/a.parquet", first[0], features=first[1])
        parquet("train/b.parquet", second[0], features=second[1])
        columns, features = first if test is None else test
        return tmp_path / "train", parquet("test.parquet", columns, features=features)

    return write


def test_labels_of_each_file_are_read_by_its_own_names(shards):
    first, other = (
        (labelled(ANIMALS, FIRST), named(*FIRST)),
        (labelled(ANIMALS[::-1], OTHER), named(*OTHER)),
    )
    store = opened(*shards(first, other, test=other))
    assert store.info.classes == ("cat", "dog", "emu")
    for split in (store.train, store.test):
        np.testing.assert_array_equal(split.features[:, 0], split.targets)
    assert len(store.train) == 8


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32()])
def test_small_integers_are_numbered_anew_too(shards, kind):
    names = [f"class {number}" for number in range(120)]
    table = {"a": [0.0, 119.0], "label": pa.array([0, 119], kind)}
    backwards = {"a": [119.0, 0.0], "label": pa.array([0, 119], kind)}
    store = opened(*shards((table, named(*names)), (backwards, named(*names[::-1]))))
    np.testing.assert_array_equal(store.train.targets, [0, 119, 119, 0])


@pytest.mark.parametrize("other", [["cat", "dog"], ["cat", "dog", "fox"], ["cat", "dog", "emu", "fox"]])
@pytest.mark.parametrize("where", ["training", "test"])
def test_files_with_other_names_are_refused_and_both_are_named(shards, other, where):
    table = {"a": [0.0, 1.0], "label": [0, 1]}
    first, wrong = (table, named(*FIRST)), (table, named(*other))
    paths = shards(first, wrong) if where == "training" else shards(first, first, test=wrong)
    file = "b" if where == "training" else "test"
    words = (
        rf"{file}\.parquet, column 'label': its numbers mean {', '.join(other)}, and in .*a\.parquet cat, dog, emu\."
    )
    with pytest.raises(DataError, match=words):
        opened(*paths)


def test_a_name_that_stands_twice_cannot_be_told_and_is_refused(shards):
    table = {"a": [0.0, 1.0], "label": [0, 1]}
    with pytest.raises(DataError, match="its numbers mean dog, cat, cat, and in"):
        opened(*shards((table, named("cat", "dog", "cat")), (table, named("dog", "cat", "cat"))))


@pytest.mark.parametrize("unnamed", ["first", "second", "test"])
def test_a_file_without_names_beside_one_with_names_is_refused(shards, unnamed):
    table = {"a": [0.0, 1.0], "label": [0, 1]}
    metadata = {which: None if which == unnamed else named(*FIRST) for which in ("first", "second", "test")}
    paths = shards(*((table, metadata[which]) for which in ("first", "second", "test")))
    without = {"first": "a", "second": "b", "test": "test"}[unnamed]
    with pytest.raises(
        DataError,
        match=rf"{without}\.parquet, column 'label': nothing says what its numbers mean; in .*\.parquet the metadata",
    ):
        opened(*paths)


def test_a_label_without_a_name_is_not_given_one(shards):
    table, other = {"a": [0.0, 1.0], "label": [0, 1]}, {"a": [0.0, 1.0], "label": [0, 3]}
    with pytest.raises(DataError, match=r"b\.parquet, row 1: label 3 is not one of the 3 known: 0, 1, 2"):
        opened(*shards((table, named(*FIRST)), (other, named(*OTHER))))


def test_owners_are_read_by_the_names_of_each_file(shards):
    def table(names):
        owners = pa.array([names.index(owner) for owner in ANIMALS])
        return {"a": [1.0] * 4, "label": [0, 1, 0, 1], "who": owners}, named(*names, column="who")

    store = opened(*shards(table(FIRST), table(OTHER)), partition=Partition(kind="natural", column="who"))
    np.testing.assert_array_equal(store.train.owners, [0, 1, 1, 2] * 2)
    assert store.owners == tuple(FIRST)


def test_a_feature_is_read_by_the_names_of_each_file(shards):
    def table(names):
        return {"a": [names.index(animal) for animal in ANIMALS], "label": [0, 1, 0, 1]}, named(*names, column="a")

    store = opened(*shards(table(FIRST), table(OTHER), test=table(OTHER)))
    np.testing.assert_array_equal(store.train.features[:, 0], [0, 1, 1, 2] * 2)
    np.testing.assert_array_equal(store.test.features[:, 0], [0, 1, 1, 2])


@pytest.mark.parametrize("described", ["List", "LargeList", "before version 4"])
def test_sets_of_labels_are_read_by_the_names_of_each_file(shards, described):
    sets = [["cat", "emu"], [], ["dog"]]

    def table(names):
        item = {"names": names, "_type": "ClassLabel"}
        feature = [item] if described == "before version 4" else {"feature": item, "_type": described}
        lists = pa.chunked_array(
            [
                pa.array([[names.index(name) for name in labels] for labels in part], pa.list_(pa.int64()))
                for part in (sets[:2], sets[2:])
            ]
        )
        return {"a": [0.0, 1.0, 2.0], "label": lists}, {"label": feature}

    store = opened(*shards(table(FIRST), table(OTHER), test=table(OTHER)), target="labels")
    matrix = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(store.train.targets, matrix * 2)
    np.testing.assert_array_equal(store.test.targets, matrix)


def test_a_missing_list_is_still_found_after_numbering_anew(shards):
    def table(names, lists):
        feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
        return {"a": [0.0, 1.0], "label": pa.array(lists, pa.list_(pa.int64()))}, {"label": feature}

    with pytest.raises(DataError, match=r"b\.parquet, row 1, column 'label': the value is missing"):
        opened(*shards(table(FIRST, [[0], [1, 2]]), table(OTHER, [[0], None])), target="labels")


def test_categories_are_the_same_whatever_file_has_them_first(shards):
    def table(words):
        return {"animal": pa.array(words).dictionary_encode(), "label": [0, 1]}, None

    store = opened(*shards(table(["dog", "cat"]), table(["cat", "emu"]), test=table(["emu", "dog"])))
    np.testing.assert_array_equal(store.train.features, [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(store.test.features, [[0, 0, 1], [0, 1, 0]])


def test_columns_are_found_by_name_in_whatever_order_they_are(shards):
    first = ({"a": [1, 2], "b": [3, 4], "label": [0, 1]}, None)
    second = ({"label": [0, 1], "b": [3, 4], "a": [1, 2]}, None)
    store = opened(*shards(first, second, test=second))
    np.testing.assert_array_equal(store.train.features, [[1, 3], [2, 4]] * 2)
    np.testing.assert_array_equal(store.test.features, [[1, 3], [2, 4]])


@pytest.mark.parametrize("where", ["training", "test"])
def test_a_column_that_the_first_file_lacks_is_refused_where_all_are_features(shards, where):
    first = ({"a": [1, 2], "label": [0, 1]}, None)
    wider = ({"a": [1, 2], "age": [3, 4], "label": [0, 1]}, None)
    paths = shards(first, wider) if where == "training" else shards(first, first, test=wider)
    with pytest.raises(DataError, match=r"\.parquet has a column 'age', and .*a\.parquet has none; every column"):
        opened(*paths)
    assert opened(*paths, feature_columns="a").info.shape == (1,)


def test_a_column_that_another_file_lacks_is_refused(shards):
    first = ({"a": [1, 2], "age": [3, 4], "label": [0, 1]}, None)
    with pytest.raises(DataError, match=r"b\.parquet: there is no column 'age'.*a\.parquet has it"):
        opened(*shards(first, ({"a": [1, 2], "label": [0, 1]}, None)))


def test_other_types_are_refused_by_the_names_of_both_files(shards):
    first = ({"a": [1, 2], "label": [0, 1]}, None)
    with pytest.raises(
        DataError,
        match=r"b\.parquet and .*a\.parquet have different column types: column 'a' has type double .* int64 in",
    ):
        opened(*shards(first, ({"a": [1.5, 2.5], "label": [0, 1]}, None)))
