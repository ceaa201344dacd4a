import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fedtrain.config import Data, Partition
from fedtrain.data import open_store
from fedtrain.errors import DataError


def identity(folder):
    """What changes when an entry is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def rows_of(split):
    return {features.tobytes() for features in split.features}


@pytest.fixture
def numbers(parquet):
    """A table whose only feature is the number of the row."""
    return parquet("numbers.parquet", {"row": list(range(100)), "label": [row % 3 for row in range(100)]})


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def output(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def test_arrays_are_mapped_and_read_only():
    store = open_store(Data(), seed=0)
    for array in (store.train.features, store.train.targets, store.test.features, store.test.targets):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
        assert array.flags.c_contiguous


def test_a_fraction_is_held_out_with_the_seed(numbers):
    data = Data(source="parquet", path=numbers, test_fraction=0.25)
    first, again, other = (open_store(data, seed=seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.test)) == (75, 25)
    assert sorted(np.concatenate([first.train.features, first.test.features])[:, 0]) == list(range(100))
    assert np.all(np.diff(first.train.features[:, 0]) > 0)
    np.testing.assert_array_equal(first.train.targets, first.train.features[:, 0] % 3)
    assert rows_of(first.test) == rows_of(again.test)
    assert rows_of(first.test) != rows_of(other.test)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_fraction_that_leaves_one_side_empty_is_refused(numbers, fraction):
    with pytest.raises(DataError, match=f"test_fraction = {fraction} of 100 records leaves"):
        open_store(Data(source="parquet", path=numbers, test_fraction=fraction), seed=0)


def test_data_without_test_records_are_refused(numbers):
    data = Data(source="parquet", path=numbers, test_fraction=0.25).model_copy(update={"test_fraction": None})
    with pytest.raises(DataError, match="there is no test data; set test_fraction"):
        open_store(data, seed=0)


def test_max_records_limits_the_training_records_alone(numbers):
    data = Data(source="parquet", path=numbers, test_fraction=0.25)
    whole = open_store(data, seed=0)
    limited, again = (open_store(data.model_copy(update={"max_records": 10}), seed=0) for _ in range(2))
    assert len(limited.train) == 10
    assert rows_of(limited.train) < rows_of(whole.train)
    assert rows_of(limited.train) == rows_of(again.train)
    assert rows_of(limited.test) == rows_of(whole.test)
    assert rows_of(open_store(data.model_copy(update={"max_records": 500}), seed=0).train) == rows_of(whole.train)


def test_owners_that_lose_all_records_leave_no_gap(parquet):
    path = parquet("owned.parquet", {"a": list(range(40)), "who": list(range(40)), "label": [0, 1] * 20})
    partition = Partition(kind="natural", column="who")
    store = open_store(Data(source="parquet", path=path, test_fraction=0.5, max_records=7, partition=partition), seed=0)
    np.testing.assert_array_equal(store.train.owners, np.arange(7))
    assert store.owners == tuple(f"{number:g}" for number in store.train.features[:, 0])


def test_a_cached_store_is_not_decoded_again(numbers, cache):
    data = Data(source="parquet", path=numbers, test_fraction=0.25)
    first = open_store(data, seed=0)
    before = identity(first.folder)
    status = Path(numbers).stat()
    Path(numbers).write_bytes(bytes(status.st_size))
    os.utime(numbers, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = open_store(data, seed=0)
    assert rows_of(again.train) == rows_of(first.train)
    assert identity(again.folder) == before
    assert first.folder.parent == cache


def test_a_changed_file_is_decoded_again(parquet, numbers):
    data = Data(source="parquet", path=numbers, test_fraction=0.25)
    open_store(data, seed=0)
    parquet("numbers.parquet", {"row": list(range(40)), "label": [0, 1] * 20})
    assert len(open_store(data, seed=0).train) == 30


def test_the_seed_matters_only_where_records_are_drawn(parquet, numbers):
    test = parquet("test.parquet", {"row": [1], "label": [1]})
    data = Data(source="parquet", path=numbers, test_path=test)
    assert open_store(data, seed=0).folder == open_store(data, seed=1).folder
    drawn = data.model_copy(update={"max_records": 5})
    assert open_store(drawn, seed=0).folder != open_store(drawn, seed=1).folder


def test_partitions_of_one_source_share_a_store():
    folders = {open_store(Data(partition=Partition(kind=kind)), seed=0).folder for kind in ("iid", "dirichlet")}
    assert len(folders) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "train_targets.npy").unlink(),
        lambda folder: os.truncate(folder / "train_features.npy", 5000),
        lambda folder: os.truncate(folder / "test_targets.npy", 10),
        lambda folder: os.truncate(folder / "meta.json", 10),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text("{}"),
        lambda folder: np.save(folder / "train_targets.npy", np.zeros(3, dtype=np.int64)),
    ],
    ids=["missing", "truncated", "header", "cut meta", "no meta", "empty meta", "other array"],
)
def test_a_damaged_store_is_built_again(damage):
    good = open_store(Data(), seed=0)
    expected = rows_of(good.train), good.train.targets.tobytes()
    damage(good.folder)
    again = open_store(Data(), seed=0)
    assert (rows_of(again.train), again.train.targets.tobytes()) == expected
    assert {path.name for path in again.folder.iterdir()} == {
        "meta.json",
        "train_features.npy",
        "train_targets.npy",
        "test_features.npy",
        "test_targets.npy",
    }


def test_what_a_killed_process_left_is_replaced():
    store = open_store(Data(), seed=0)
    left = store.folder.with_name(store.folder.name + ".tmp")
    store.folder.rename(left)
    (left / "train_targets.npy").unlink()
    assert len(open_store(Data(), seed=0).train.targets) == 1438
    assert not left.exists()


def test_processes_that_open_at_once_build_one_store(numbers, cache):
    program = """
        import sys
        from fedtrain.config import Data
        from fedtrain.data import open_store
        sys.stdin.readline()
        store = open_store(Data(source="parquet", path=sys.argv[1], test_fraction=0.25), seed=0)
        print((store.folder / "train_features.npy").stat().st_ino, store.train.features.sum())
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert answers[0] == answers[1] != ""
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"]


def test_a_full_disk_leaves_no_half_store(cache):
    program = """
        import resource
        from fedtrain.config import Data
        from fedtrain.data import open_store
        from fedtrain.errors import StorageError
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            open_store(Data(), seed=0)
        except StorageError as error:
            print(error)
    """
    message = output(start(program))
    assert str(cache / "digits-") in message
    assert "it takes 0.1 MB and " in message
    assert "MB are free; make room, or choose another folder with data.cache or FEDTRAIN_CACHE" in message
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert len(open_store(Data(), seed=0).train) == 1438


def test_a_cached_store_and_split_need_no_decoder(numbers):
    program = """
        import json, sys
        from fedtrain.config import Data
        from fedtrain.data import open_store, partition
        data = Data(source="parquet", path=sys.argv[1], test_fraction=0.25)
        partition(open_store(data, seed=0), data, clients=4, seed=0)
        heavy = ("datasets", "flwr_datasets", "pyarrow", "PIL", "sklearn", "pandas", "torch", "flwr")
        print(json.dumps([name for name in heavy if name in sys.modules]))
    """
    first, cached = (json.loads(output(start(program, numbers))) for _ in range(2))
    assert "pyarrow" in first
    assert not {"datasets", "flwr_datasets"} & set(first)
    assert cached == []
