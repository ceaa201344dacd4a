import re
from pathlib import Path

import numpy as np
import pytest
from platformdirs import user_cache_path

from fedtrain.config import Data
from fedtrain.data import open_store
from fedtrain.data.cache import Entry, cache_folder, cached, forget_pages
from fedtrain.errors import StorageError


def test_the_configuration_comes_before_the_environment_and_the_user(cache, monkeypatch):
    assert cache_folder("~/elsewhere") == Path.home() / "elsewhere"
    assert cache_folder(None) == cache
    monkeypatch.delenv("FEDTRAIN_CACHE")
    assert cache_folder(None) == user_cache_path("fedtrain")


def test_an_entry_is_built_once(tmp_path):
    built = []

    def build():
        built.append(1)
        return Entry(meta={"name": "x"}, arrays={"numbers": np.arange(6).reshape(2, 3)})

    for _ in range(2):
        entry = cached(tmp_path / "deep" / "entry", build)
        assert entry.meta == {"name": "x"}
        np.testing.assert_array_equal(entry.arrays["numbers"], [[0, 1, 2], [3, 4, 5]])
    assert built == [1]


def test_a_failed_build_leaves_nothing_and_releases_the_lock(tmp_path):
    def build():
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path / "entry", build)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "cache"] == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file.*cannot be written: .*choose another folder with data.cache"):
        open_store(Data(cache=str(tmp_path / "file")), seed=0)


def mapped(path):
    """Return the kilobytes of a file that are mapped into this process."""
    found = re.search(rf"{re.escape(str(path))}\n(?:\w+:.*\n)*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text())
    return 0 if found is None else int(found[1])


def test_pages_of_a_file_are_forgotten_and_read_again(tmp_path):
    numbers = np.arange(500_000)
    entry = cached(tmp_path / "entry", lambda: Entry(meta={}, arrays={"numbers": numbers}))
    entry = cached(tmp_path / "entry", lambda: None)
    found, path = entry.arrays["numbers"], tmp_path / "entry" / "numbers.npy"
    np.testing.assert_array_equal(found, numbers)
    assert mapped(path) >= numbers.nbytes // 1024
    forget_pages(found[10:].reshape(-1, 10))
    assert mapped(path) == 0
    np.testing.assert_array_equal(found, numbers)


def test_nothing_is_forgotten_that_is_not_in_the_file(tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(4096))
    changed = np.load(tmp_path / "numbers.npy", mmap_mode="c")
    changed[0] = 7
    changed.flags.writeable = False
    memory = np.arange(4096)
    for values in (changed, np.asarray(changed)[:100], memory):
        forget_pages(values)
    assert (changed[0], memory[7]) == (7, 7)
