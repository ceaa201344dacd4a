import subprocess
import sys

import pytest

from fedtrain.errors import ConfigError
from fedtrain.machines.starts import LEFT, clear, discard, held, holds_run, in_use


@pytest.fixture
def folder(tmp_path):
    """Make what a start leaves that was killed."""
    place = tmp_path / "run"
    for name in LEFT:
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    (place / "checkpoints").mkdir()
    (place / ".roster.json.0123456789ab.tmp").write_text("torn")
    return place


def test_what_a_killed_start_leaves_is_no_run(folder, tmp_path):
    assert not holds_run(folder)
    assert not holds_run(tmp_path / "none")
    (folder / ".roster.json.0123456789ab.tmp").unlink()
    discard(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["config.toml", "record.jsonl", "checkpoints/round-000001.safetensors", "keys/other", "x"]
)
def test_anything_else_is_one(folder, name):
    (folder / name).write_text("x")
    assert holds_run(folder)
    discard(folder)
    assert (folder / name).read_text() == "x"


def test_a_file_or_a_link_in_its_place_is_not_free(tmp_path):
    (tmp_path / "file").write_text("")
    assert holds_run(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("nowhere")
    assert holds_run(tmp_path / "folder")


def test_one_process_for_a_folder_until_it_ends_also_by_a_kill(folder):
    program = (
        "import sys; from pathlib import Path; from fedtrain.machines.starts import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        assert in_use(folder)
        with (
            pytest.raises(ConfigError, match="another process is running or starting a run"),
            held(folder, patience=0.1),
        ):
            pass
        process.kill()
        process.wait()
        assert not in_use(folder)
    with held(folder):
        assert in_use(folder)
    assert not in_use(folder)
    assert len(list(folder.iterdir())) == 7


def test_a_folder_that_is_held_stays_held_while_it_is_cleared(folder):
    with held(folder):
        clear(folder)
        assert folder.is_dir()
        assert in_use(folder)
