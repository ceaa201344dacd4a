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
@pytest.mark.parametrize("wider_is_first", [True, False])
def test_a_column_that_one_file_has_alone_is_refused_in_either_order(shards, where, wider_is_first):
    files = [
        ({"a": [1, 2], "label": [0, 1]}, None),
        ({"a": [1, 2], "age": [3, 4], "bmi": [5, 6], "label": [0, 1]}, None),
    ]
    first, second = reversed(files) if wider_is_first else files
    paths = shards(first, second) if where == "training" else shards(first, first, test=second)
    other, wider = "b" if where == "training" else "test", "a" if wider_is_first else "[bt]e?s?t?"
    words = (
        rf"{other}\.parquet and .*a\.parquet have different columns: only .*{wider}\.parquet has 'age', 'bmi'\. Every"
    )
    with pytest.raises(DataError, match=words):
        opened(*paths)
    assert opened(*paths, feature_columns="a").info.shape == (1,)


@pytest.mark.parametrize("more_is_first", [True, False])
def test_a_second_column_of_images_in_one_file_is_refused_in_either_order(shards, encode, more_is_first):
    def pictures(value):
        return [{"bytes": encode(np.full((2, 2), value)), "path": None}] * 2

    files = [
        ({"img": pictures(1), "label": [0, 1]}, None),
        ({"mask": pictures(9), "img": pictures(2), "label": [0, 1]}, None),
    ]
    paths = shards(*(reversed(files) if more_is_first else files))
    with pytest.raises(DataError, match=r"b\.parquet and .*a\.parquet have .* 'mask'.*unless image_column names it"):
        opened(*paths)
    store = opened(*paths, image_column="img")
    assert sorted(set(store.train.features.ravel().tolist())) == [1, 2]


def test_a_column_beside_images_that_one_file_has_alone_is_used_by_nobody(shards, encode):
    images = [{"bytes": encode(np.zeros((2, 2))), "path": None}] * 2
    first, second = ({"img": images, "label": [0, 1]}, None), ({"img": images, "id": [1, 2], "label": [0, 1]}, None)
    assert len(opened(*shards(first, second)).train) == len(opened(*shards(second, first)).train) == 4


STRINGS = ["x", "y"]
SAME = {
    "string views": (pa.array(STRINGS), pa.array(STRINGS, pa.string_view())),
    "large strings": (pa.array(STRINGS, pa.large_string()), pa.array(STRINGS)),
    "a dictionary of strings": (pa.array(STRINGS).dictionary_encode(), pa.array(STRINGS, pa.string_view())),
    "integers of other widths": (pa.array([0, 1], pa.int8()), pa.array([0, 1], pa.int64())),
    "unsigned integers": (pa.array([0, 1], pa.uint64()), pa.array([0, 1], pa.int16())),
    "booleans of a byte": (
        pa.array([False, True]),
        pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
    ),
}
NUMBERS = {
    "floats of other widths": (pa.array([0.0, 1.0], pa.float32()), pa.array([0.0, 1.0], pa.float64())),
    "halves": (pa.array([0.0, 1.0], pa.float16()), pa.array([0.0, 1.0], pa.float32())),
    "integers and floats": (pa.array([0, 1], pa.int32()), pa.array([0.0, 1.0])),
    "decimals": (pa.array([0, 1]).cast(pa.decimal128(25, 2)), pa.array([0.0, 1.0])),
    "decimals of other digits": (
        pa.array([0, 1]).cast(pa.decimal128(30, 3)),
        pa.array([0, 1]).cast(pa.decimal128(22, 1)),
    ),
}


@pytest.mark.parametrize("same", SAME)
@pytest.mark.parametrize("backwards", [True, False])
def test_labels_owners_and_features_whose_types_mean_the_same_are_one(shards, same, backwards):
    files = [({"a": each, "who": each, "label": each}, None) for each in SAME[same]]
    store = opened(
        *shards(*(reversed(files) if backwards else files)), partition=Partition(kind="natural", column="who")
    )
    np.testing.assert_array_equal(store.train.targets, [0, 1, 0, 1])
    np.testing.assert_array_equal(store.train.owners, [0, 1, 0, 1])
    np.testing.assert_array_equal(store.train.features[:2], store.train.features[2:])


@pytest.mark.parametrize("same", NUMBERS)
@pytest.mark.parametrize("backwards", [True, False])
def test_numbers_whose_types_mean_the_same_are_one(shards, same, backwards):
    files = [({"a": each, "label": each}, None) for each in NUMBERS[same]]
    store = opened(*shards(*(reversed(files) if backwards else files)), target="number")
    np.testing.assert_array_equal(store.train.features[:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(store.train.targets, [0, 1, 0, 1])


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_list(pa.large_string()),
        pa.list_(pa.string_view()),
        pa.list_view(pa.string()),
        pa.large_list_view(pa.string_view()),
        pa.list_(pa.string(), 1),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
@pytest.mark.parametrize("backwards", [True, False])
def test_lists_of_labels_in_any_layout_are_one(shards, kind, backwards):
    lists = [["x"], ["y"]]
    files = [({"a": [0.0, 1.0], "label": pa.array(lists, each)}, None) for each in (pa.list_(pa.string()), kind)]
    store = opened(*shards(*(reversed(files) if backwards else files)), target="labels")
    np.testing.assert_array_equal(store.train.targets, [[1, 0], [0, 1]] * 2)


def test_a_label_in_booleans_and_in_0_and_1_is_one(shards):
    files = [({"a": [0.0, 1.0], "flu": each}, None) for each in (pa.array([False, True]), pa.array([0, 1], pa.int64()))]
    store = opened(*shards(*files), target="labels", label_columns="flu", feature_columns="a")
    np.testing.assert_array_equal(store.train.targets, [[0], [1], [0], [1]])


@pytest.mark.parametrize("content", [pa.binary_view(), pa.large_binary(), pa.binary()], ids=str)
@pytest.mark.parametrize("backwards", [True, False])
def test_bytes_of_images_in_any_layout_are_one(shards, encode, content, backwards):
    def pictures(value, kind, path):
        rows = [{"bytes": encode(np.full((2, 2), value)), "path": None}] * 2
        return {"img": pa.array(rows, pa.struct([("bytes", kind), ("path", path)])), "label": [0, 1]}, None

    files = [pictures(1, content, pa.string_view()), pictures(2, pa.binary(), pa.string())]
    store = opened(*shards(*(reversed(files) if backwards else files)))
    assert sorted(set(store.train.features.ravel().tolist())) == [1, 2]


def test_a_missing_image_is_found_whatever_is_missing(shards, encode):
    kind = pa.struct([("bytes", pa.binary_view())])
    good = {"bytes": encode(np.zeros((2, 2)))}
    for bad in (None, {"bytes": None}):
        second = ({"img": pa.array([good, bad], kind), "label": [0, 1]}, None)
        first = ({"img": pa.array([good, good], kind), "label": [0, 1]}, None)
        with pytest.raises(DataError, match=r"b\.parquet, row 1: the image is missing"):
            opened(*shards(first, second))


@pytest.mark.parametrize("column", ["a", "label"])
def test_a_column_without_any_value_is_missing_values(shards, column):
    whole = {"a": [1, 2], "label": [0, 1]}
    for first, second, file in (
        (whole, whole | {column: pa.nulls(2)}, "b"),
        (whole | {column: pa.nulls(2)}, whole, "a"),
    ):
        with pytest.raises(DataError, match=rf"{file}\.parquet, row 0, column '{column}': the value is missing"):
            opened(*shards((first, None), (second, None), test=(whole, None)))


DIFFERENT = {
    "numbers and strings": ({"a": [1, 2]}, {"a": ["1", "2"]}, "string .* int64 in"),
    "booleans and numbers": ({"a": [1, 0]}, {"a": [True, False]}, "bool .* int64 in"),
    "classes that are no whole numbers": ({"label": [0, 1]}, {"label": [0.0, 1.0]}, "double .* int64 in"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_types_that_mean_something_else_are_refused_by_the_names_of_both_files(shards, case):
    first, second, types = DIFFERENT[case]
    whole = {"a": [1, 2], "label": [0, 1]}
    words = rf"b\.parquet and .*a\.parquet have different column types: column '\w+' has type {types} the latter; write"
    with pytest.raises(DataError, match=words):
        opened(*shards((whole | first, None), (whole | second, None)))


def test_the_two_files_that_differ_are_named_where_others_lie_between(parquet, tmp_path):
    for name, values in (("a", [1, 2]), ("b", [1.5, 2.5]), ("c", ["x", "y"])):
        parquet(f"train/{name}.parquet", {"a": values, "label": [0, 1]})
    with pytest.raises(DataError, match=r"c\.parquet and .*a\.parquet .*'a' has type string .* int64 in the latter"):
        opened(tmp_path / "train", parquet("test.parquet", {"a": [1], "label": [0]}))


def test_a_number_that_fits_no_common_type_is_refused(shards):
    first = ({"a": pa.array([1, 2], pa.int64()), "label": [0, 1]}, None)
    second = ({"a": pa.array([1, 2**63], pa.uint64()), "label": [0, 1]}, None)
    with pytest.raises(DataError, match=r"b\.parquet, column 'a' has type uint64 and cannot be read as int64: .*9223"):
        opened(*shards(first, second))
