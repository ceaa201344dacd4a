from pathlib import Path

import numpy as np
import pytest
from platformdirs import user_cache_path

from fedtrain.config import Data
from fedtrain.data import open_store
from fedtrain.data.cache import Entry, cache_folder, cached
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
