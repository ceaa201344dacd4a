"""What the machine, or the container, lets a run use: cores, memory, open files, temporary folders.

A container shares the machine's processors and memory. The files of its control group say how much of them it may use:
``cpu.max`` and ``memory.max`` (version 2), ``cpu.cfs_quota_us`` and ``memory.limit_in_bytes`` (version 1). A group is
inside of others, and the smallest limit on the way up counts.
"""

import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from multiprocessing import process, util
from pathlib import Path, PurePosixPath

from fedtrain.errors import StorageError, UsageError

_log = logging.getLogger(__name__)

_MACHINE = Path("/")
# Measured in the demo: the process of the command and the fork server have 0.7 GiB of their own, and a worker 0.2 GiB.
_MEMORY_BESIDE = 1 << 30  # bytes
_MEMORY_OF_A_WORKER = 512 << 20  # bytes
_NO_LIMIT = 1 << 60  # bytes: what version 1 writes for no limit is the largest number of pages
# Pipes, tickets and replies; and what is open beside: libraries, the data, the run's files.
_FILES_OF_A_WORKER, _FILES_BESIDE = 8, 128
_LONGEST_SOCKET = 107 - len("/listener-12345678")  # bytes of a folder in which multiprocessing can make a socket
_SHORT_FOLDERS = ("/tmp", "/dev/shm", "/var/tmp", "/run")  # noqa: S108 - a folder of our own is made there


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit of a control group.

    Attributes:
        value: cores, or bytes.
        file: where it is written.
    """

    value: Fraction
    file: Path


def cpu_limit(root: Path = _MACHINE) -> Limit | None:
    """Return the smallest quota of processor time, in cores, of the groups that this process is in, if there is one."""
    found = []
    for folder in _groups(root, "cpu"):
        quota, period = _words(folder / "cpu.max"), "100000"
        if quota:
            period = quota[1] if len(quota) > 1 else period
            file = folder / "cpu.max"
        else:
            file = folder / "cpu.cfs_quota_us"
            quota, period = _words(file), "".join(_words(folder / "cpu.cfs_period_us"))
        if quota and _is_positive(quota[0]) and _is_positive(period):
            found.append(Limit(value=Fraction(int(quota[0]), int(period)), file=file))
    return min(found, key=lambda limit: limit.value, default=None)


def memory_limit(root: Path = _MACHINE) -> Limit | None:
    """Return the smallest limit of memory, in bytes, of the groups that this process is in, if there is one."""
    found = []
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            if words and _is_positive(words[0]) and int(words[0]) < _NO_LIMIT:
                found.append(Limit(value=Fraction(int(words[0])), file=folder / name))
    return min(found, key=lambda limit: limit.value, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, of both versions, innermost first.

    In a container the path of the group may be one of the machine outside, which is not there. The topmost folder then
    is the group of the container.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "", "")
        if controllers == "" and path:
            top = mounted
        elif controller in controllers.split(","):
            top = next(filter(Path.is_dir, (mounted / controllers, mounted / controller)), mounted)
        else:
            continue
        parts = PurePosixPath(path).parts[1:]
        for depth in range(0 if ".." in parts else len(parts), -1, -1):
            yield top.joinpath(*parts[:depth])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").split()
    except OSError:
        return []


def _is_positive(word: str) -> bool:
    return word.isascii() and word.isdigit() and int(word) > 0


def usable_cores() -> int:
    """Return the number of cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_workers(nodes: int, *, cores: int, root: Path = _MACHINE) -> tuple[int, str]:
    """Choose a number of worker processes.

    Args:
        nodes: how many nodes there are; more workers would have nothing to do.
        cores: those on which this process may run.
        root: the root of the file system with the control groups.

    Returns:
        The number, at least 1, and why it is this one.
    """
    bounds = [(nodes, f"{nodes} nodes"), (cores, f"{cores} usable cores")]
    if (quota := cpu_limit(root)) is not None:
        bounds.append((max(1, ceil(quota.value)), f"{float(quota.value):g} cores by {quota.file}"))
    if (memory := memory_limit(root)) is not None:
        room = max(1, int((memory.value - _MEMORY_BESIDE) // _MEMORY_OF_A_WORKER))
        size = f"{float(memory.value / (1 << 30)):.3g} GiB of memory by {memory.file}"
        bounds.append((room, f"{size}, which is room for {room}"))
    return min(bound for bound, _ in bounds), "; ".join(why for _, why in bounds)


def make_room_for_files(workers: int) -> None:
    """Raise the number of files that this process may have open, where the workers need more and it may be raised.

    Args:
        workers: how many there will be.

    Raises:
        UsageError: it may not be raised far enough.
    """
    needed = _FILES_BESIDE + _FILES_OF_A_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(
            f"this process may have {hard} files open (ulimit -n), and a run with {workers} workers takes up to "
            f"{needed}: raise the limit, or name fewer workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def temporary_folder() -> Path:
    """Return the folder for temporary files, and warn where that is not the one that TMPDIR names.

    Raises:
        StorageError: there is none.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(
            "there is no folder for temporary files: let TMPDIR name one that exists and can be written"
        ) from error
    named = os.environ.get("TMPDIR")
    if named and Path(named).absolute() != folder and not os.access(named, os.W_OK | os.X_OK):
        _log.warning(
            "TMPDIR names %s, where no files can be made: temporary files go to %s. Let it name a folder that exists",
            named,
            folder,
        )
    return folder


def make_room_for_sockets() -> None:
    """Let multiprocessing make its sockets in a folder of its own with a short path, where that of TMPDIR is too long.

    The path of a socket has at most 107 bytes. Workers inherit the folder, and so do processes that a client starts.

    Raises:
        StorageError: there is no such folder.
    """
    if len(os.fsencode(util.get_temp_dir())) <= _LONGEST_SOCKET:
        return
    for parent in _SHORT_FOLDERS:
        try:
            folder = tempfile.mkdtemp(prefix="pymp-", dir=parent)
        except OSError:
            continue
        process.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]  # noqa: SLF001 - no seam
        util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)
        return
    raise StorageError(
        f"the path {tempfile.gettempdir()} is too long for sockets, and {', '.join(_SHORT_FOLDERS)} cannot be written: "
        "let TMPDIR name a folder with a shorter path"
    )
