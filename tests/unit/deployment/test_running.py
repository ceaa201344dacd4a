import shutil

import pytest

from fedtrain.deployment.running import bring_back, refuse_taken
from fedtrain.errors import ConfigError, StorageError


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "server" / "runs" / "first"
    for name in ("keys", "checkpoints", "records"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text(name)
    (place / "report.json").write_text("new")
    return place


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_all_but_keys_and_checkpoints_comes_back(folder, tmp_path):
    out = tmp_path / "runs" / "first"
    bring_back(folder, out)
    assert content(out) == {"report.json": "new", "records/file": "records"}
    assert (folder / "keys" / "file").exists()
    assert [path.name for path in out.parent.iterdir()] == ["first"]


def test_what_was_there_of_the_run_is_replaced(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale").write_text("old")
    bring_back(folder, out)
    assert content(out) == {"report.json": "new", "records/file": "records"}
    assert {path.name for path in tmp_path.iterdir()} == {"server", "out"}


def test_what_was_there_is_kept_where_the_run_cannot_be_copied(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "before").write_text("old")
    (folder / "dangling").symlink_to("nowhere")
    with pytest.raises(StorageError, match="it is still there"):
        bring_back(folder, out)
    assert content(out) == {"before": "old"}
    assert {path.name for path in tmp_path.iterdir()} == {"server", "out"}
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot bring"):
        bring_back(folder, tmp_path / "file" / "out")


def test_no_two_runs_in_one_folder(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"the server has a run .* already"):
        refuse_taken(folder, out, resume=False)
    refuse_taken(folder, out, resume=True)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="there is no run"):
        refuse_taken(folder, out, resume=True)
    refuse_taken(folder, out, resume=False)
    out.mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        refuse_taken(folder, out, resume=False)
