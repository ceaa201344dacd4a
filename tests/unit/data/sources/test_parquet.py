import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import DataInfo, Text, TextTarget, open_store
from fedtrain.errors import DataError


def opened(path, test_path=None, **fields):
    if test_path is None:
        fields.setdefault("test_fraction", 0.5)
    return open_store(Data(source="parquet", path=path, test_path=test_path, **fields), seed=0)


def image_rows(contents):
    return [{"bytes": content, "path": None} for content in contents]


@pytest.fixture
def pictures(parquet, encode):
    """Write a file of grey PNG images and labels; return its path and the pixels."""

    def write(name, labels, size=(5, 4), channels=(), **options):
        pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), *size, *channels), dtype=np.uint8)
        path = parquet(name, {"img": image_rows(encode(image) for image in pixels), "label": labels}, **options)
        return path, pixels

    return write


def test_grey_png_images_keep_every_pixel(pictures):
    train, pixels = pictures("train.parquet", [0, 2, 1, 0])
    test, test_pixels = pictures("test.parquet", [1, 0, 2])
    store = opened(train, test)
    assert (store.info.kind, store.info.shape, store.info.classes) == ("image", (1, 5, 4), ("0", "1", "2"))
    np.testing.assert_array_equal(store.train.features, pixels[:, None])
    np.testing.assert_array_equal(store.test.features, test_pixels[:, None])
    np.testing.assert_array_equal(store.train.targets, [0, 2, 1, 0])
    assert store.train.features.dtype == np.uint8
    assert store.train.targets.dtype == np.int64


def test_rgb_images_are_stored_channels_first(pictures):
    train, pixels = pictures("train.parquet", ["b", "a"], channels=(3,))
    store = opened(train)
    features = np.concatenate([store.train.features, store.test.features])
    labels = [store.info.classes[label] for label in (*store.train.targets, *store.test.targets)]
    assert features.shape == (2, 3, 5, 4)
    for image, name in zip(pixels, ["b", "a"], strict=True):
        np.testing.assert_array_equal(features[labels.index(name)], image.transpose(2, 0, 1))


def test_class_names_come_from_the_metadata_of_the_hub(pictures):
    names = {"label": {"names": ["cat", "ant", "bee"], "_type": "ClassLabel"}}
    path, _ = pictures("train.parquet", [0, 1, 1, 0], features=names)
    assert opened(path).info.classes == ("cat", "ant", "bee")


@pytest.mark.parametrize("features", [{}, {"label": {"dtype": "int64", "_type": "Value"}}])
def test_metadata_without_class_names_is_passed_over(pictures, features):
    path, _ = pictures("train.parquet", [5, 3, 3, 5], features=features)
    assert opened(path).info.classes == ("3", "5")


def test_a_label_beyond_the_named_classes_is_refused(pictures):
    names = {"label": {"names": ["cat", "ant"], "_type": "ClassLabel"}}
    path, _ = pictures("train.parquet", [0, 1, 2, 0], features=names)
    with pytest.raises(DataError, match=r"train.parquet, row 2: label 2 is not one of the 2 known: 0, 1"):
        opened(path)


def test_a_negative_label_is_refused(pictures):
    path, _ = pictures("train.parquet", [0, 1, -1, 0])
    with pytest.raises(DataError, match=r"row 2: label -1 is negative"):
        opened(path)


def test_a_missing_label_is_refused(pictures):
    path, _ = pictures("train.parquet", [0, None, 1, 0])
    with pytest.raises(DataError, match=r"row 1, column 'label': the value is missing"):
        opened(path)


def test_a_label_that_is_no_category_is_refused(parquet):
    path = parquet("train.parquet", {"x": [1, 2], "label": [0.5, 1.5]})
    with pytest.raises(DataError, match=r"column 'label' has type double; allowed: integers, strings"):
        opened(path)


def test_a_label_that_is_not_utf8_is_refused_without_a_word_of_it(parquet):
    labels = pa.array([b"good", b"J\xfcne"]).view(pa.string())
    path = parquet("train.parquet", {"x": [1, 2], "label": labels})
    with pytest.raises(DataError, match=r"row 1, column 'label': the text is not UTF-8: byte 2") as told:
        opened(path)
    assert "ne'" not in str(told.value)


def test_a_test_label_that_training_does_not_have_is_refused(pictures):
    train, _ = pictures("train.parquet", ["cat", "dog"])
    test, _ = pictures("test.parquet", ["dog", "emu", "cat"])
    with pytest.raises(DataError, match=r"test.parquet, row 1: label 'emu' is not one of the 2 known: 'cat', 'dog'"):
        opened(train, test)


def test_a_damaged_image_is_refused(parquet, encode):
    good = encode(np.zeros((4, 4)))
    path = parquet("train.parquet", {"img": image_rows([good, good, good[:-30]]), "label": [0, 1, 0]})
    with pytest.raises(DataError, match=r"train.parquet, row 2: the image cannot be read as PNG or JPEG"):
        opened(path)


def test_an_image_format_other_than_png_and_jpeg_is_refused(parquet, encode):
    path = parquet("train.parquet", {"img": image_rows([encode(np.zeros((4, 4)), "BMP")] * 2), "label": [0, 1]})
    with pytest.raises(DataError, match=r"row 0: the image cannot be read as PNG or JPEG"):
        opened(path)


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "a.png"}])
def test_a_missing_image_is_refused(parquet, encode, missing):
    rows = [*image_rows([encode(np.zeros((4, 4)))]), missing]
    path = parquet("train.parquet", {"img": rows, "label": [0, 1]})
    with pytest.raises(DataError, match=r"row 1: the image is missing"):
        opened(path)


@pytest.mark.parametrize(
    ("other", "words"), [(np.zeros((4, 6)), "6 x 4 grey"), (np.zeros((4, 4, 3)), "4 x 4 RGB")], ids=["size", "mode"]
)
def test_images_of_different_size_or_mode_are_refused(parquet, encode, other, words):
    contents = [encode(np.zeros((4, 4))), encode(np.zeros((4, 4))), encode(other)]
    path = parquet("train.parquet", {"img": image_rows(contents), "label": [0, 1, 0]})
    with pytest.raises(DataError, match=rf"row 2: the image is {words}, but the first training image is 4 x 4 grey"):
        opened(path)


def test_a_transparent_image_is_refused(parquet, encode):
    path = parquet("train.parquet", {"img": image_rows([encode(np.zeros((4, 4, 4)))] * 2), "label": [0, 1]})
    with pytest.raises(DataError, match=r"row 0: the image has mode 'RGBA'; allowed"):
        opened(path)


def test_test_images_of_another_size_are_refused(pictures):
    train, _ = pictures("train.parquet", [0, 1])
    test, _ = pictures("test.parquet", [0, 1], size=(6, 4))
    with pytest.raises(DataError, match=r"test.parquet, row 0: the image is 4 x 6 grey"):
        opened(train, test)


def test_several_files_are_one_data_set_and_errors_name_the_file(pictures, tmp_path):
    pictures("many/a.parquet", [0, 1])
    _, last = pictures("many/b.parquet", [1, 0, 1])
    test, _ = pictures("test.parquet", [0])
    store = opened(str(tmp_path / "many"), test)
    np.testing.assert_array_equal(store.train.targets, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(store.train.features[2:, 0], last)
    pictures("many/c.parquet", [0, -7])
    with pytest.raises(DataError, match=r"c.parquet, row 1: label -7"):
        opened(str(tmp_path / "many" / "*.parquet"), test)


def test_columns_become_features(parquet):
    columns = {
        "age": [1, 2, 3],
        "name": pa.array(["x", "y", "x"]).dictionary_encode(),
        "label": ["no", "yes", "no"],
        "rich": [True, False, False],
        "height": [0.5, 1.5, 2.5],
    }
    test = {"age": [9], "name": ["y"], "label": ["yes"], "rich": [True], "height": [9.5]}
    store = opened(parquet("train.parquet", columns), parquet("test.parquet", test))
    assert (store.info.kind, store.info.shape, store.info.classes) == ("table", (6,), ("no", "yes"))
    expected = [[1, 1, 0, 0, 1, 0.5], [2, 0, 1, 1, 0, 1.5], [3, 1, 0, 1, 0, 2.5]]
    np.testing.assert_array_equal(store.train.features, np.array(expected, dtype=np.float32))
    np.testing.assert_array_equal(store.test.features, [[9, 0, 1, 0, 1, 9.5]])
    assert store.train.features.dtype == np.float32


def test_feature_columns_choose_and_order_the_features(parquet):
    path = parquet("train.parquet", {"a": [1, 2], "b": [3, 4], "c": [5, 6], "label": [0, 1]})
    store = opened(path, parquet("test.parquet", {"c": [7], "a": [8], "label": [0]}), feature_columns="c, a")
    np.testing.assert_array_equal(store.train.features, [[5, 1], [6, 2]])
    np.testing.assert_array_equal(store.test.features, [[7, 8]])


def test_an_unknown_category_in_the_test_data_is_named(parquet):
    train = parquet("train.parquet", {"job": ["cook", "smith"], "label": [0, 1]})
    test = parquet("test.parquet", {"job": ["smith", "judge"], "label": [0, 1]})
    with pytest.raises(
        DataError, match=r"test.parquet, row 1: column 'job', value 'judge' is not one of the 2 known: 'cook'"
    ):
        opened(train, test)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "the value is missing"), (float("nan"), "nan is not"), (-float("inf"), "-inf is not"), (1e39, "1e.39 is")],
)
def test_a_number_that_is_not_finite_is_refused(parquet, value, words):
    path = parquet("train.parquet", {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, value], "label": [0, 1, 0]})
    with pytest.raises(DataError, match=rf"train.parquet, row 2, column 'b': {words}"):
        opened(path)


def test_a_column_that_is_neither_number_nor_category_is_refused(parquet):
    path = parquet("train.parquet", {"when": pa.array([1, 2], pa.timestamp("ms")), "label": [0, 1]})
    with pytest.raises(DataError, match=r"column 'when' has type timestamp\[ms\]"):
        opened(path)


def test_a_column_of_another_type_in_the_test_data_is_refused(parquet):
    train = parquet("train.parquet", {"a": [1, 2], "label": [0, 1]})
    test = parquet("test.parquet", {"a": ["1", "2"], "label": [0, 1]})
    with pytest.raises(DataError, match=r"test.parquet, row 0, column 'a' has type string, but in the training data"):
        opened(train, test)


def test_texts_that_are_their_own_target_need_no_label(parquet):
    texts, owners = ["Ay, sir.", "", "Well, well.", "O!"], ["a", "b", "a", "b"]
    path = parquet("train.parquet", {"text": texts, "speaker": owners})
    test = parquet("test.parquet", {"text": texts[:1]})
    natural = Partition(kind="natural", column="speaker")
    # The second time from the cache.
    for _ in range(2):
        store = opened(path, test, target="text", text_column="text", max_bytes=12, partition=natural)
        assert store.info == DataInfo(features=Text(shape=(12,)), target=TextTarget())
        assert (store.train.targets.shape, store.train.targets.dtype, len(store.train)) == ((4, 0), np.uint8, 4)
        assert store.test.targets.shape == (1, 0)
        assert store.owners == ("a", "b")
        assert [row.tobytes().rstrip(b"\0").decode() for row in store.train.features] == texts
    store = opened(path, target="text", text_column="text", max_records=1)
    assert (store.train.targets.shape, store.test.targets.shape) == ((1, 0), (2, 0))


def test_text_that_nothing_names_is_refused(parquet):
    path = parquet("train.parquet", {"text": [f"speech {row}" for row in range(1001)], "label": [0] * 1001})
    with pytest.raises(
        DataError, match=r"column 'text' holds 1,001 different values.*name the column of a text with text_column"
    ):
        opened(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"label_column": "lable"}, "label_column = 'lable': there is no such column; did you mean label"),
        ({"image_column": "imgs"}, "image_column = 'imgs': there is no such column; did you mean img"),
        ({"feature_columns": "agee"}, "feature_columns = 'agee': there is no such column; did you mean age"),
        (
            {"partition": Partition(kind="natural", column="owners")},
            "partition.column = 'owners': there is no such column; did you mean owner",
        ),
        ({"image_column": "age"}, "image_column = 'age' has type int64; an image column is a struct"),
        ({"feature_columns": "age,label"}, "feature_columns names label, the column of the label or the owner"),
        ({"feature_columns": "age", "image_column": "img"}, "image_column and feature_columns are both set"),
    ],
)
def test_a_wrong_column_is_refused(parquet, encode, fields, words):
    images = image_rows([encode(np.zeros((2, 2)))] * 2)
    path = parquet("train.parquet", {"img": images, "age": [1, 2], "owner": [1, 2], "label": [0, 1]})
    with pytest.raises(DataError, match=words):
        opened(path, **fields)


def test_a_table_without_features_is_refused(parquet):
    with pytest.raises(DataError, match="there is no feature column besides label"):
        opened(parquet("train.parquet", {"label": [0, 1]}))


def test_a_test_file_without_a_column_is_refused(parquet):
    train = parquet("train.parquet", {"a": [1, 2], "label": [0, 1]})
    with pytest.raises(DataError, match=r"test.parquet and .*only .*train.parquet has 'label'\. Every column"):
        opened(train, parquet("test.parquet", {"a": [1]}))


def test_files_with_different_types_are_refused(parquet, tmp_path):
    parquet("many/a.parquet", {"a": [1], "label": [0]})
    parquet("many/b.parquet", {"a": ["x"], "label": [0]})
    with pytest.raises(DataError, match="have different column types"):
        opened(str(tmp_path / "many"))


def test_owners_are_codes_in_sorted_order_and_no_features(parquet):
    columns = {"a": [1, 2, 3, 4], "writer": ["eve", "bob", "eve", "ann"], "label": [0, 1, 0, 1]}
    test = {"a": [1], "label": [1]}
    by_writer = Partition(kind="natural", column="writer")
    store = opened(parquet("train.parquet", columns), parquet("test.parquet", test), partition=by_writer)
    np.testing.assert_array_equal(store.train.owners, [2, 1, 2, 0])
    assert store.owners == ("ann", "bob", "eve")
    assert store.info.shape == (1,)
    assert store.test.owners is None


def test_owners_are_no_features_of_another_partition_either(parquet):
    columns = {"a": [1, 2], "writer": ["eve", "bob"], "label": [0, 1]}
    assert opened(parquet("train.parquet", columns), partition=Partition(column="writer")).info.shape == (1,)


def test_a_missing_owner_is_refused(parquet):
    path = parquet("train.parquet", {"a": [1, 2], "writer": ["eve", None], "label": [0, 1]})
    with pytest.raises(DataError, match=r"row 1, column 'writer': the value is missing"):
        opened(path, partition=Partition(kind="natural", column="writer"))


def test_missing_and_unreadable_files_are_refused(parquet, tmp_path):
    with pytest.raises(DataError, match=r"none.parquet: there is no such file or folder"):
        opened(str(tmp_path / "none.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no .parquet file"):
        opened(str(tmp_path / "empty"))
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"damaged.parquet: cannot be read as Parquet"):
        opened(str(damaged))
    whole = parquet("whole.parquet", {"a": list(range(1000)), "label": [0, 1] * 500})
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    content[4:200] = bytes(196)
    (tmp_path / "whole.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"whole.parquet: cannot be read as Parquet"):
        opened(whole)


@pytest.mark.parametrize("fields", [{}, {"feature_columns": "b"}])
def test_two_columns_of_one_name_are_refused(tmp_path, fields):
    columns = [pa.array([1, 2]), pa.array([3, 4]), pa.array([5, 6]), pa.array([0, 1])]
    pq.write_table(pa.Table.from_arrays(columns, ["a", "b", "a", "label"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice.parquet: more than one column is named 'a', .* a name of its own"):
        opened(str(tmp_path / "twice.parquet"), **fields)


def test_the_names_of_folders_are_no_columns(parquet):
    train = parquet("kind=new/train.parquet", {"kind": [1, 2], "label": [0, 1]})
    store = opened(train, parquet("kind=old/test.parquet", {"kind": [3], "label": [0]}))
    assert store.train.features.tolist() == [[1], [2]]


def test_a_table_of_many_columns_takes_a_time_in_proportion(parquet):
    columns = {f"gene {number}": [0.5, 1.5] for number in range(20_000)}
    path = parquet("genes.parquet", columns | {"label": [0, 1]})
    pq.read_table(path)
    started = time.process_time()
    pq.read_table(path)
    arrow = time.process_time() - started
    assert opened(path).info.shape == (20_000,)
    # It was more than thirty times as long, and the longer, the more columns.
    assert time.process_time() - started < 12 * arrow


def test_empty_sets_are_refused(parquet):
    empty = parquet("empty.parquet", {"a": pa.array([], pa.int64()), "label": pa.array([], pa.int64())})
    full = parquet("full.parquet", {"a": [1, 2], "label": [0, 1]})
    with pytest.raises(DataError, match=r"empty.parquet holds no records"):
        opened(empty, full)
    with pytest.raises(DataError, match=r"empty.parquet holds no records"):
        opened(full, empty)


def test_training_data_is_not_accepted_as_test_data(parquet):
    path = parquet("train.parquet", {"a": [1, 2], "label": [0, 1]})
    with pytest.raises(DataError, match="is both training and test data"):
        opened(path, path)


@pytest.mark.shared_data
@pytest.mark.slow
def test_cifar10_opens(shared):
    store = opened(str(shared / "cifar10" / "train.parquet"), str(shared / "cifar10" / "test.parquet"))
    assert store.info.shape == (3, 32, 32)
    assert len(store.info.classes) == 10
    assert (len(store.train), len(store.test)) == (50_000, 10_000)
    assert np.bincount(store.train.targets).tolist() == [5_000] * 10


@pytest.mark.shared_data
def test_shakespeare_is_refused_as_text(shared):
    files = str(shared / "shakespeare" / "train.parquet"), str(shared / "shakespeare" / "test.parquet")
    with pytest.raises(DataError, match="label_column = 'label': there is no such column"):
        opened(*files)
    with pytest.raises(DataError, match=r"column 'text' holds .* different values"):
        opened(*files, label_column="speaker")
