"""The hub source, on local folders: the datasets library loads them with the same code, without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

# Each data set is opened in a copy of a process that has imported what takes seconds, and has done nothing else.
PROGRAM = """
import json, os, sys
import datasets
from fedtrain.config import Data
from fedtrain.data import open_store
from fedtrain.errors import DataError

def opened(fields):
    try:
        store = open_store(Data(source="hub", **fields), seed=0)
    except DataError as error:
        return {"error": str(error)}
    return {
        "kind": store.info.kind, "shape": store.info.shape, "classes": store.info.classes,
        "train": store.train.features.tolist(), "labels": store.train.targets.tolist(),
        "test": store.test.features.tolist(), "test_labels": store.test.targets.tolist(),
    }

for line in sys.stdin:
    fields, answer = json.loads(line)
    if os.fork() == 0:
        with open(answer, "w") as file:
            json.dump(opened(fields), file)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Start the process, which may not use the network."""
    home = tmp_path_factory.mktemp("hf")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    with (
        (home / "stderr").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield process
        process.stdin.close()


@pytest.fixture
def run(copied, tmp_path):
    """Open a data set of the hub in a copy of that process; return its facts or its error."""

    def run(**fields):
        answer = tmp_path / "answer.json"
        copied.stdin.write(json.dumps([fields, str(answer)]) + "\n")
        copied.stdin.flush()
        assert copied.stdout.readline() == "0\n"
        return json.loads(answer.read_text())

    return run


@pytest.fixture
def local(tmp_path, encode):
    """A data set in the hub's layout of image folders."""
    for split, count in (("train", 3), ("test", 1)):
        for label in ("ant", "bee"):
            folder = tmp_path / "local" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                value = number + (100 if label == "bee" else 0) + (50 if split == "test" else 0)
                (folder / f"{number}.png").write_bytes(encode(np.full((2, 3), value)))
    return str(tmp_path / "local")


def test_image_folders_with_their_own_test_split(run, local):
    store = run(dataset=local)
    assert (store["kind"], store["shape"], store["classes"]) == ("image", [1, 2, 3], ["ant", "bee"])
    assert [np.unique(image).tolist() for image in store["train"]] == [[0], [1], [2], [100], [101], [102]]
    assert store["labels"] == [0, 0, 0, 1, 1, 1]
    assert [np.unique(image).tolist() for image in store["test"]] == [[50], [150]]
    assert store["test_labels"] == [0, 1]


def test_the_test_fraction_replaces_the_test_split(run, local):
    store = run(dataset=local, test_fraction=0.34)
    assert (len(store["train"]), len(store["test"])) == (4, 2)
    assert all(np.max(image) != 50 for image in store["test"])


def test_tables(run, parquet, tmp_path):
    parquet("table/train.parquet", {"a": [1, 2, 3], "b": ["x", "y", "x"], "label": [0, 1, 0]})
    parquet("table/test.parquet", {"a": [4], "b": ["y"], "label": [1]})
    store = run(dataset=str(tmp_path / "table"))
    assert store["train"] == [[1, 1, 0], [2, 0, 1], [3, 1, 0]]
    assert store["test"] == [[4, 0, 1]]


def test_a_data_set_without_a_test_split_is_refused(run, parquet, tmp_path):
    parquet("table/train.parquet", {"a": [1, 2, 3], "label": [0, 1, 0]})
    error = run(dataset=str(tmp_path / "table"))["error"]
    assert "has no split 'test'; its splits are: train; set test_fraction" in error


def test_an_unknown_column_is_refused(run, local):
    assert "label_column = 'lab': there is no such column" in run(dataset=local, label_column="lab")["error"]


@pytest.mark.parametrize("where", ["train-00001", "test"])
def test_a_file_with_names_of_its_own_is_refused(run, parquet, tmp_path, where):
    for name in ("train-00000", "train-00001", "test"):
        names = ["dog", "cat"] if name == where else ["cat", "dog"]
        features = {"a": {"dtype": "int64", "_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
        parquet(f"table/{name}.parquet", {"a": [1, 2], "label": [0, 1]}, features=features)
    error = run(dataset=str(tmp_path / "table"))["error"]
    assert f"{where}.parquet, column 'label': its numbers mean dog, cat, and data set" in error
    assert "has been read with cat, dog, those of another file" in error


def test_a_file_without_names_beside_one_with_names_is_refused(run, parquet, tmp_path):
    for name in ("train-00000", "train-00001", "test"):
        features = {
            "a": {"dtype": "int64", "_type": "Value"},
            "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        }
        parquet(f"table/{name}.parquet", {"a": [1, 2], "label": [0, 1]}, features=None if name[-1] == "1" else features)
    error = run(dataset=str(tmp_path / "table"))["error"]
    assert "train-00001.parquet, column 'label': nothing says what its numbers mean; in " in error


def test_another_subset_has_names_of_its_own(run, parquet, tmp_path):
    for subset, names in (("first", ["cat", "dog"]), ("second", ["dog", "cat"])):
        features = {"a": {"dtype": "int64", "_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
        for split in ("train", "test"):
            parquet(f"table/{subset}/{split}.parquet", {"a": [1, 2], "label": [0, 1]}, features=features)
    configs = "".join(
        f"- config_name: {subset}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {subset}/{split}.parquet\n" for split in ("train", "test"))
        for subset in ("first", "second")
    )
    (tmp_path / "table" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for subset, names in (("first", ["cat", "dog"]), ("second", ["dog", "cat"])):
        assert run(dataset=str(tmp_path / "table"), subset=subset)["classes"] == names


@pytest.mark.parametrize("file", ["dataset_dict.json", "state.json"])
def test_a_folder_of_save_to_disk_is_refused_with_what_to_write(run, tmp_path, file):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / file).write_text("{}")
    assert "was written by save_to_disk" in (error := run(dataset=str(tmp_path / "saved"))["error"])
    assert "to_parquet" in error


def test_without_network_the_error_says_that_this_source_downloads(run):
    error = run(dataset="nobody/nothing", subset="plain")["error"]
    assert "data set 'nobody/nothing', subset 'plain' cannot be loaded" in error
    assert 'source = "hub" downloads the data set by name' in error


@pytest.mark.parametrize("wider_is_first", [True, False])
def test_a_column_that_one_file_of_a_folder_has_alone_is_refused_in_either_order(
    run, parquet, tmp_path, wider_is_first
):
    narrow, wide = {"a": [1, 2], "label": [0, 1]}, {"a": [1, 2], "b": [3, 4], "label": [0, 1]}
    for number, columns in enumerate((wide, narrow) if wider_is_first else (narrow, wide)):
        parquet(f"two/train-{number}.parquet", columns)
    error = run(dataset=str(tmp_path / "two"), test_fraction=0.5)["error"]
    assert "train-1.parquet and " in error
    assert f"train-{0 if wider_is_first else 1}.parquet has 'b'. Every column is a feature unless" in error


def test_types_of_a_folder_that_mean_something_else_are_refused(run, parquet, tmp_path):
    parquet("two/train-0.parquet", {"a": ["1", "2"], "label": [0, 1]})
    parquet("two/train-1.parquet", {"a": [1, 2], "label": [0, 1]})
    error = run(dataset=str(tmp_path / "two"), test_fraction=0.5)["error"]
    assert "column 'a' has type int64 in the former and string in the latter" in error


def test_views_of_strings_are_strings(run, parquet, tmp_path):
    parquet("views/train-0.parquet", {"a": [1, 2], "label": pa.array(["x", "y"], pa.string_view())})
    parquet("views/train-1.parquet", {"a": [1, 2], "label": pa.array(["y", "x"], pa.large_string())})
    parquet("views/test.parquet", {"a": [1, 2], "label": pa.array(["y", "x"])})
    assert run(dataset=str(tmp_path / "views"))["labels"] == [0, 1, 1, 0]
