import os
from importlib.metadata import version

import pytest

from fedtrain.health.machine import COMFORTABLE, LEAST, _version, compare, free_space, installed, space, writable

FOUND = {"fedtrain": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0"}
ASKED = ["flwr<1.43,>=1.41", "torch<2.14,>=2.9", 'flwr[simulation]<1.42; extra == "ray"']


def test_what_is_installed_here_is_right():
    check = installed()
    assert check.status == "ok"
    assert f"flwr {version('flwr')}" in check.detail


def test_all_as_asked():
    assert compare("3.11.7", FOUND, ASKED).detail == "Python 3.11.7, fedtrain 0.1.0, flwr 1.41.0, torch 2.13.0"


@pytest.mark.parametrize("allowed", ["1.42.0", "1.42.3", "1.41"])
def test_each_version_of_a_range_is_as_asked(allowed):
    assert compare("3.11.7", {**FOUND, "flwr": allowed, "torch": "2.13.0+cpu"}, ASKED).status == "ok"


@pytest.mark.parametrize("other", ["1.40.9", "1.43.0", "2.0", "1.43.0.dev20261129"])
def test_a_version_out_of_the_range(other):
    check = compare("3.11.7", {**FOUND, "flwr": other}, ASKED)
    assert check.status == "fails"
    assert check.detail == (
        f"flwr {other} is installed, and fedtrain works with <1.43,>=1.41 alone; run: pip install 'flwr<1.43,>=1.41'"
    )


def test_a_version_is_compared_with_a_single_one_too():
    check = compare("3.11.7", FOUND, ["flwr==1.42.0"])
    assert check.status == "fails"
    assert "pip install 'flwr==1.42.0'" in check.detail


def test_something_is_missing():
    assert _version("no-package-of-this-name") is None
    check = compare("3.11.7", {**FOUND, "torch": None}, ASKED)
    assert check.status == "fails"
    assert check.detail.startswith("torch is not installed")


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
