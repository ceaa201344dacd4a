"""Programs that run beside one another under one command, and end with it.

Flower's programs have in common what is at the end, on a server's machine and on a node's.
"""

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Self

from filelock import FileLock, Timeout

from fedtrain.crypto import read_or_create_secret
from fedtrain.errors import RunError, SiteError, StorageError

_MARK = "FEDTRAIN_STARTED_BY"
_TIMEOUT = 10.0  # seconds to end in
_LARGEST_LOG = 50_000_000  # bytes
_SECRET_BYTES = 32
_RUNNING = ".running"
_LOOK = 0.2  # seconds: a status that looks whether a folder is held keeps nobody out


class Stopped(BaseException):
    """Somebody asked this process to end. No error, and not for ``except Exception``."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the block as `Stopped`, once; what follows cleans up undisturbed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone.

    Raises:
        SiteError: another process holds it.
        StorageError: it cannot be written.
    """
    lock = FileLock(folder / _RUNNING, timeout=_LOOK)
    try:
        lock.acquire()
    except Timeout as error:
        raise SiteError(f"{folder} is in use: a fedtrain command runs for it already; stop that first") from error
    except OSError as error:
        raise StorageError(f"cannot write in {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def is_running(folder: Path) -> bool:
    """Say whether a process holds a folder. It is held for a moment by this, and by no other look."""
    try:
        descriptor = os.open(folder / _RUNNING, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}
    finally:
        os.close(descriptor)
    return False


def delays(*, first: float = 1.0, most: float = 60.0) -> Iterator[float]:
    """Yield for how many seconds to wait before each further attempt: twice as long each time, spread at random."""
    delay = first
    while True:
        yield delay * random.uniform(0.75, 1.25)  # noqa: S311 - so that nodes do not come back all at once
        delay = min(most, delay * 2)


def unproxied() -> dict[str, str]:
    """Return what keeps programs from asking the environment's proxy for one another, on loopback."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    value = f"{known},localhost,127.0.0.1" if known else "localhost,127.0.0.1"
    return {"no_proxy": value, "NO_PROXY": value}


class Processes:
    """Programs that this process started, with their output in files.

    However the block ends, they end too, with whatever they started, also in sessions of its own.
    """

    def __init__(self, logs: Path) -> None:
        """Prepare.

        Args:
            logs: folder of the files.

        Raises:
            StorageError: it cannot be made.
        """
        self._logs = logs
        self._mark = token_hex(16)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {logs}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*self._running)
        self._kill_marked()

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start a program. What it prints is appended to ``NAME.log``; what it writes is for this user alone.

        Args:
            name: a name of its own.
            command: the program, by its path, and its arguments.
            environment: what it finds in its environment besides that of this process.

        Raises:
            StorageError: its log cannot be written.
            RunError: it cannot be started.
        """
        command = [str(word) for word in command]
        log = self.log(name)
        try:
            file = log.open("ab")
        except OSError as error:
            raise StorageError(f"cannot write {log}: {error.strerror or error}") from error
        with file:
            try:
                self._running[name] = subprocess.Popen(  # noqa: S603 - the commands are ours
                    [sys.executable, "-m", "fedtrain.deployment.lifetime", str(os.getpid()), *command],
                    env={**os.environ, **unproxied(), **(environment or {}), _MARK: self._mark},
                    cwd=self._logs,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,  # Flower's databases hold messages and tokens
                )
            except OSError as error:
                raise RunError(f"cannot start {command[0]}: {error.strerror or error}") from error

    def log(self, name: str) -> Path:
        """Return the file of what a program prints."""
        return self._logs / f"{name}.log"

    def printed(self, name: str, *, start: int = 0) -> str:
        """Return what a program printed from a place in its file on, or as much of it as is left."""
        try:
            with self.log(name).open("rb") as file:
                file.seek(start)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def trim(self) -> None:
        """Put the beginning of files aside that have grown large: strangers who knock make programs print."""
        for name in self._running:
            log = self.log(name)
            with suppress(OSError):  # on a full disk, the programs go on
                if log.stat().st_size > _LARGEST_LOG:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                    os.truncate(log, 0)  # the program appends, and so goes on at the beginning

    def size(self, name: str) -> int:
        """Return how long the file of a program is: where what it prints next begins."""
        with suppress(FileNotFoundError):
            return self.log(name).stat().st_size
        return 0

    def status(self, name: str) -> int | None:
        """Return the exit status of a program; ``None`` as long as it runs."""
        return self._running[name].poll()

    def stop(self, *names: str) -> None:
        """End programs: they are asked first, and after ten seconds no more."""
        stopping = [self._running.pop(name) for name in names if name in self._running]
        for process in stopping:
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + _TIMEOUT
        for process in stopping:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, end - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()

    def _kill_marked(self) -> None:
        """Kill what programs started in sessions of its own: it has their mark in its environment."""
        mark, own = f"{_MARK}={self._mark}".encode(), os.getpid()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(entry.name) != own and mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def program(name: str) -> Path:
    """Return where one of Flower's programs is: beside the Python that runs this."""
    return Path(sys.executable).parent / name


def environment(home: Path) -> dict[str, str]:
    """Return what all of Flower's programs find in their environment.

    Args:
        home: Flower's own folder.
    """
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # Flower starts some of its programs by their names.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def make_secret(path: Path) -> None:
    """Make the secret that Flower's SuperExec and what it works for know each other by, where there is none.

    Another user of the machine could otherwise take the messages.

    Raises:
        KeyFileError: the file can be used by others.
        StorageError: it cannot be written.
    """
    read_or_create_secret(path, lambda: token_hex(_SECRET_BYTES).encode())


def superexec(port: int, secret: Path, *, ca: Path | None) -> list[str | Path]:
    """Return the command of a SuperExec, which starts an app for each task.

    Args:
        port: of what it works for, on this machine's loopback.
        secret: the file of the secret between the two.
        ca: the CA of the other's certificate; ``None`` for a SuperNode, which has none: its ClientApps are started from
            a process that has imported what they need.
    """
    own = [sys.executable, "-m", "fedtrain.flower.superexec", "--insecure"]
    return [
        *(own if ca is None else [program("flower-superexec"), "--root-certificates", ca]),
        "--runtime-api-address",
        f"127.0.0.1:{port}",
        "--superexec-auth-secret-file",
        secret,
    ]
