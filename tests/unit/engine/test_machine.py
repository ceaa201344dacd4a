"""What a container or a user limits, from folders that stand for those of a machine."""

import logging
import os
import resource
import stat
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest

from fedtrain.engine import machine
from fedtrain.engine.machine import (
    choose_workers,
    cpu_limit,
    make_room_for_files,
    memory_limit,
    temporary_folder,
)
from fedtrain.errors import StorageError, UsageError

GIB = 1 << 30


@pytest.fixture
def root(tmp_path):
    """Give a function that writes a machine's files, by their paths."""

    def make(groups, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for path, content in files.items():
            file = tmp_path / "sys/fs/cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")
        return tmp_path

    return make


def test_a_container_sees_the_files_of_its_own_group_at_the_top(root):
    folder = root("0::/\n", **{"cpu.max": "250000 100000", "memory.max": 4 * GIB})
    assert cpu_limit(folder).value == Fraction(5, 2)
    assert memory_limit(folder).value == 4 * GIB
    workers, why = choose_workers(100, cores=64, root=folder)
    assert workers == 3
    assert why.split("; ") == [
        "100 nodes",
        "64 usable cores",
        f"2.5 cores by {folder}/sys/fs/cgroup/cpu.max",
        f"4 GiB of memory by {folder}/sys/fs/cgroup/memory.max, which is room for 6",
    ]


def test_of_groups_inside_of_one_another_the_smallest_limit_counts(root):
    files = {
        "cpu.max": "max 100000",
        "a/cpu.max": "200000 100000",
        "a/b/cpu.max": "800000 100000",
        "a/memory.max": "max",
        "a/b/memory.max": 2 * GIB,
        "other/cpu.max": "100000 100000",
    }
    folder = root("0::/a/b\n", **files)
    assert (cpu_limit(folder).value, cpu_limit(folder).file.parent.name) == (2, "a")
    assert (memory_limit(folder).value, memory_limit(folder).file.parent.name) == (2 * GIB, "b")


@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("group", ["docker/1", ""])
def test_the_first_version(root, mounted, group):
    # In a container the path is that of the machine, and may not be there.
    cpu = "/".join(filter(None, (mounted, group)))
    files = {
        f"{cpu}/cpu.cfs_quota_us": 150000,
        f"{cpu}/cpu.cfs_period_us": 50000,
        "memory/memory.limit_in_bytes": 3 * GIB,
        "memory/docker/memory.limit_in_bytes": 9223372036854771712,
    }
    folder = root("4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n0::/\n", **files)
    assert cpu_limit(folder).value == 3
    assert memory_limit(folder).value == 3 * GIB


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("nonsense\n", {"cpu.max": "100000 100000"}),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}),
        ("0::/\n", {"cpu.max": "", "memory.max": ""}),
        ("0::/\n", {"cpu.max": "0 100000", "memory.max": "0"}),
        ("0::/\n", {"cpu.max": "many 100000", "memory.max": "-5"}),
        ("1:cpu:/\n2:memory:/\n", {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": 100000}),
    ],
)
def test_no_limit(root, groups, files):
    folder = root(groups, **files)
    assert (cpu_limit(folder), memory_limit(folder)) == (None, None)
    assert choose_workers(7, cores=5, root=folder) == (5, "7 nodes; 5 usable cores")
    assert choose_workers(3, cores=5, root=folder)[0] == 3


def test_groups_outside_of_the_container_are_not_looked_for(root):
    folder = root("0::/../other\n", **{"cpu.max": "200000 100000"})
    (folder / "sys/fs/other").mkdir()
    (folder / "sys/fs/other/cpu.max").write_text("100000 100000")
    assert cpu_limit(folder).value == 2


@pytest.mark.parametrize(("memory", "workers"), [(GIB // 2, 1), (GIB, 1), (2 * GIB, 2), (5 * GIB, 8), (90 * GIB, 16)])
def test_there_is_memory_for_the_workers(root, memory, workers):
    folder = root("0::/\n", **{"memory.max": memory})
    assert choose_workers(100, cores=16, root=folder)[0] == workers


def test_the_engine_says_how_many_workers_there_are_and_why(make_grid, caplog):
    with caplog.at_level(logging.INFO, logger="fedtrain"):
        grid = make_grid("", workers=None, nodes=1)
    assert grid.workers == 1
    assert caplog.messages[0].startswith("1 worker processes; 1 nodes; ")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="fedtrain"):
        make_grid("", workers=2, nodes=4)
    assert caplog.messages == ["2 worker processes; asked for: 2"]


@pytest.fixture
def no_choice(monkeypatch):
    """Let the folder for temporary files be chosen anew."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)


def test_a_folder_for_temporary_files_that_does_not_exist_is_a_warning(no_choice, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    found = temporary_folder()
    assert found.is_dir()
    (said,) = caplog.messages
    assert said.startswith(
        f"TMPDIR names {tmp_path / 'missing'}, where no files can be made: temporary files go to {found}"
    )


def test_the_folder_that_is_named_is_taken_in_silence(no_choice, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_folder() == tmp_path
    assert caplog.messages == []


def test_no_folder_for_temporary_files_is_refused(no_choice, monkeypatch):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/missing"])
    with pytest.raises(StorageError, match="let TMPDIR name one"):
        temporary_folder()


SOCKETS = """
import os, stat
from multiprocessing import util
from multiprocessing.connection import Listener
from fedtrain.engine.machine import make_room_for_sockets
before = util.get_temp_dir()
make_room_for_sockets()
folder = util.get_temp_dir()
Listener(family="AF_UNIX").close()
print(before == folder, folder, oct(stat.S_IMODE(os.stat(folder).st_mode)))
"""


@pytest.mark.parametrize("length", [10, 75, 76, 200])
def test_sockets_have_a_folder_with_a_short_path(tmp_path, length):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="f") as short:
        name = Path(short) / ("t" * (length - len(short) - 1)) if length > len(short) + 1 else Path(short)
        name.mkdir(exist_ok=True)
        printed = subprocess.run(
            [sys.executable, "-c", SOCKETS],
            env={**os.environ, "TMPDIR": str(name)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    same, folder, mode = printed
    assert same == str(length < 76)
    assert mode == oct(stat.S_IRWXU)
    assert not Path(folder).exists()


def test_where_no_short_folder_can_be_written_the_long_one_is_refused(monkeypatch):
    monkeypatch.setattr(machine.util, "get_temp_dir", lambda: "/" + "t" * 100)
    monkeypatch.setattr(machine, "_SHORT_FOLDERS", ("/missing",))
    with pytest.raises(StorageError, match="too long for sockets"):
        machine.make_room_for_sockets()


def test_the_number_of_open_files_is_raised_as_far_as_the_workers_need_it(monkeypatch):
    limits, changed = [(64, 4096)], []
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: limits[0])
    monkeypatch.setattr(machine.resource, "setrlimit", lambda _, pair: changed.append(pair))
    make_room_for_files(4)
    assert changed == [(160, 4096)]
    for enough in ((160, 160), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)):
        limits[0] = enough
        make_room_for_files(4)
    limits[0] = (64, resource.RLIM_INFINITY)
    make_room_for_files(4)
    assert changed == [(160, 4096), (160, resource.RLIM_INFINITY)]
    limits[0] = (64, 128)
    with pytest.raises(
        UsageError, match=r"may have 128 files open \(ulimit -n\), and a run with 4 workers takes up to 160"
    ):
        make_room_for_files(4)
