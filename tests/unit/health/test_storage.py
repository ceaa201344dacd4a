import os

import pytest

from fedtrain.health.storage import COMFORTABLE, LEAST, free_space, space, writable


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    assert writable(tmp_path).status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    check = writable(tmp_path / "gone")
    assert check.status == "fails"
    assert "cannot be written" in check.detail


def test_a_file_system_that_nobody_can_write():
    assert writable("/proc").status == "fails"


@pytest.mark.parametrize(
    ("free", "status"),
    [(LEAST - 1, "fails"), (LEAST, "warns"), (COMFORTABLE - 1, "warns"), (COMFORTABLE, "ok")],
)
def test_how_much_space_is_enough(tmp_path, free, status):
    check = space("disk", tmp_path, free)
    assert check.status == status
    assert str(tmp_path) in check.detail


def test_the_space_is_that_of_the_file_system(tmp_path):
    system = os.statvfs(tmp_path)
    assert f"{system.f_bavail * system.f_frsize / 1024**3:.0f}"[0] in free_space(tmp_path).detail
