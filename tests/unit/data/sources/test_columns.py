"""Targets that are numbers or sets of labels, from Parquet files and NumPy archives."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from fedtrain.config import Data
from fedtrain.data import LabelsTarget, NumberTarget, open_store
from fedtrain.errors import DataError

NUMBERS = [1.5, -2.0, 0.25, 3.0]
LISTS = [["b", "a"], [], ["c"], ["a"]]


@pytest.fixture
def opened(tmp_path):
    """Write columns to a Parquet file and open it, the first row as test data too."""

    def opened(columns, **fields):
        table = pa.table({"x": [0.0, 1.0, 2.0, 3.0], **columns})
        pq.write_table(table, tmp_path / "train.parquet")
        pq.write_table(table.slice(0, 1), tmp_path / "test.parquet")
        files = {"path": str(tmp_path / "train.parquet"), "test_path": str(tmp_path / "test.parquet")}
        return open_store(Data(source="parquet", cache=str(tmp_path / "cache"), **files, **fields), seed=0)

    return opened


@pytest.fixture
def archive(tmp_path):
    def archive(y, **fields):
        x = np.arange(8, dtype=np.float32).reshape(4, 2)
        np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
        file = str(tmp_path / "data.npz")
        data = Data(source="npz", path=file, test_path=file, cache=str(tmp_path / "cache"), **fields)
        return open_store(data, seed=0)

    return archive


def test_a_column_of_numbers(opened):
    store = opened({"y": NUMBERS}, target="number", label_column="y")
    assert store.info.target == NumberTarget()
    assert store.info.shape == (1,)
    assert store.train.targets.dtype == np.float32
    assert store.train.targets.tolist() == NUMBERS
    assert store.test.targets.tolist() == NUMBERS[:1]


def test_negative_zero_is_zero_so_that_the_records_have_one_digest(opened, archive):
    stores = (
        opened({"y": [-0.0, 1.0, 2.0, 3.0]}, target="number", label_column="y"),
        archive(np.array([-0.0, 1.0, 2.0, 3.0]), target="number"),
    )
    for store in stores:
        assert not np.signbit(store.train.targets).any()


def test_integers_are_numbers_too(opened, archive):
    assert opened({"y": [1, 2, 3, 4]}, target="number", label_column="y").train.targets.tolist() == [1, 2, 3, 4]
    assert archive(np.arange(4), target="number").train.targets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, None, 2.0, 3.0], r"train.parquet, row 1, column 'y': the value is missing"),
        ([1.0, 2.0, float("nan"), 3.0], r"train.parquet, row 2, column 'y': nan is not a finite"),
        ([1e300, 2.0, 1.0, 3.0], r"train.parquet, row 0, column 'y': 1e\+300 is not a finite"),
        (["a", "b", "c", "d"], r"row 0, column 'y' has type string; a target that is a number is a number"),
    ],
)
def test_numbers_that_cannot_be_predicted_are_refused(opened, values, message):
    with pytest.raises(DataError, match=message):
        opened({"y": values}, target="number", label_column="y")


def test_a_column_of_lists(opened):
    store = opened({"tags": LISTS}, target="labels", label_column="tags")
    assert store.info.target == LabelsTarget(names=("a", "b", "c"))
    assert store.train.targets.dtype == np.uint8
    assert store.train.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    named = opened({"tags": LISTS}, target="labels", label_column="tags", classes="c, z, b, a")
    assert named.info.classes == ("c", "z", "b", "a")
    assert named.train.targets.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert named.test.targets.tolist() == [[0, 0, 1, 1]]


def test_lists_of_integers_are_named_by_their_decimal_forms(opened):
    store = opened({"tags": [[7], [], [3, 7], [3]]}, target="labels", label_column="tags", classes="7, 3")
    assert store.train.targets.tolist() == [[1, 0], [0, 0], [1, 1], [0, 1]]


def test_columns_of_labels(opened):
    columns = {"red": [True, False, True, False], "ripe": [0, 1, 1, 0]}
    store = opened(columns, target="labels", label_columns="red, ripe")
    assert store.info.classes == ("red", "ripe")
    assert store.info.shape == (1,)
    assert store.train.targets.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    renamed = opened(columns, target="labels", label_columns="red, ripe", classes="R, E")
    assert renamed.info.classes == ("R", "E")


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"t": [["a"], None, ["b"], []]}, {}, r"train.parquet, row 1, column 't': the value is missing"),
        ({"t": [["a"], [], ["b", None], []]}, {}, r"train.parquet, row 2, column 't': the value is missing"),
        ({"t": [["a"], [], [], ["b", "b"]]}, {}, r"train.parquet, row 3, column 't': label 'b' is there twice"),
        ({"t": [["a"], ["x"], [], []]}, {"classes": "a, b"}, r"row 1: column 't', label 'x' is not one of the 2 known"),
        ({"t": [[0.5], [], [], []]}, {}, r"column 't' has type double; allowed: integers, strings and booleans"),
        ({"t": ["a", "b", "a", "b"]}, {}, r"row 0, column 't' has type string; a label is a column of booleans"),
        ({"t": [0, 1, 2, 1]}, {}, r"train.parquet, row 2, column 't': 2 is neither 0 nor 1"),
        ({"t": [True, None, True, False]}, {}, r"train.parquet, row 1, column 't': the value is missing"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(opened, columns, fields, message):
    with pytest.raises(DataError, match=message):
        opened(columns, target="labels", label_column="t", **fields)


def test_a_column_of_lists_in_training_and_not_in_the_test_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [0.0], "t": [["a"]]}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"x": [0.0], "t": [True]}), tmp_path / "test.parquet")
    files = {"path": str(tmp_path / "train.parquet"), "test_path": str(tmp_path / "test.parquet")}
    data = Data(source="parquet", target="labels", label_column="t", cache=str(tmp_path / "cache"), **files)
    with pytest.raises(DataError, match=r"test.parquet, row 0, column 't' has type bool; labels are a column of lists"):
        open_store(data, seed=0)


def test_a_label_column_that_does_not_exist_is_named(opened):
    with pytest.raises(DataError, match="label_columns = 'ripe': there is no such column"):
        opened({"red": [True, False, True, False]}, target="labels", label_columns="red, ripe")


def test_arrays_of_labels(archive):
    y = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    for given in (y, y.astype(bool)):
        store = archive(given, target="labels", classes="red, ripe")
        assert store.info.target == LabelsTarget(names=("red", "ripe"))
        assert store.train.targets.tolist() == y.tolist()
        assert store.train.targets.dtype == np.uint8
    assert archive(y, target="labels").info.classes == ("0", "1")


@pytest.mark.parametrize(
    ("y", "fields", "message"),
    [
        (np.zeros((4, 2)), {"target": "number"}, r"y_train has shape \(4, 2\).*numbers of shape \(4,\)"),
        (np.array(list("abcd")), {"target": "number"}, r"dtype <U1; allowed: numbers"),
        (np.array([0, 1, np.inf, 2]), {"target": "number"}, r"y_train, row 2: inf is not a finite"),
        (np.zeros(4), {"target": "labels"}, r"y_train has shape \(4,\).*data.classes names them"),
        (np.zeros((4, 2), int), {"target": "labels", "classes": "a"}, r"a column for each label \(a\)"),
        (np.array([[0, 1], [1, 0], [0, 3], [0, 0]]), {"target": "labels"}, r"row 2, column 1: 3 is neither 0 nor 1"),
    ],
)
def test_arrays_that_are_no_targets_are_refused(archive, y, fields, message):
    with pytest.raises(DataError, match=message):
        archive(y, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "digits", "target": "number"}, 'source = "digits" has classes'),
        ({"target": "number", "partition": {"kind": "dirichlet"}}, 'partition.kind = "dirichlet" splits by classes'),
        ({"target": "number", "classes": "a, b"}, "not for target"),
        ({"label_columns": "a"}, 'label_columns is for target = "labels"'),
        ({"target": "labels", "label_columns": "a, a"}, "an empty name, or one twice"),
        ({"target": "labels", "label_columns": "a, b", "classes": "a"}, "classes names 1 labels and label_columns 2"),
    ],
)
def test_fields_that_do_not_fit_the_target_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Data.model_validate({"source": "npz", "path": "x", "test_path": "y", **fields})
