"""A SuperLink and SuperNodes in processes of their own on loopback, and all that can be read of a run on them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np

from fedtrain.deployment import processes
from tests.ports import free_port, is_open

ROOT = Path(__file__).parents[2]

NAME = "recorded"

# A run takes a minute or so on two idle cores, and minutes on busy ones: each message starts a process with torch.
PATIENCE = 540


@dataclass(frozen=True)
class Recording:
    """What a run left in a folder, which nobody changes any more.

    Attributes:
        folder: the folder that `Federation.record` was given.
    """

    folder: Path

    @property
    def out(self):
        """The run folder."""
        return self.folder / "run"

    @property
    def sites(self):
        """The folder of the clients."""
        return self.folder / "sites"

    @property
    def report(self):
        return json.loads((self.out / "report.json").read_text())

    @cached_property
    def database(self):
        """What the SuperLink's database and its write-ahead log held at one time or another."""
        return self._read("database")

    @cached_property
    def uplink(self):
        """All that other machines sent to the SuperLink's port."""
        return self._read("uplink")

    @cached_property
    def downlink(self):
        """All that the SuperLink's port answered."""
        return self._read("downlink")

    @cached_property
    def logs(self):
        """What all processes printed."""
        return self._read("logs")

    @property
    def secrets(self):
        """What the keys of the clients' sessions came from, as it lay on their disks during the run."""
        return frozenset(map(bytes.fromhex, self._read("secrets").decode().split()))

    def _read(self, name):
        return (self.folder / "recorded" / name).read_bytes()


WINDOW = 16


def windows(arrays):
    """Return four floats of every four, but for those that are much alike, which are anywhere."""
    found = set()
    for data in (array.tobytes() for array in arrays):
        found |= {data[start : start + WINDOW] for start in range(0, len(data) - WINDOW + 1, WINDOW)}
    return {window for window in found if len(set(window)) >= WINDOW // 2}


def readable(needles, *places):
    """Return those of some byte strings, of eight bytes or more, that are in one place or another."""
    heads = np.unique(np.array([_head(needle) for needle in needles], dtype=np.uint64))
    found = set()
    for place in places:
        begun = _present(heads, place)
        found |= {needle for needle in needles if _head(needle) in begun and needle in place}
    return found


def _head(needle):
    return int.from_bytes(needle[:8], "little")


def _present(heads, place):
    """Return those of some numbers that begin anywhere in a place: thousands would take long one by one."""
    present = set()
    for shift in range(min(8, len(place) - 7) if len(heads) else 0):
        numbers = np.frombuffer(place, "<u8", count=(len(place) - shift) // 8, offset=shift)
        nearest = heads[np.searchsorted(heads, numbers).clip(max=len(heads) - 1)]
        present.update(nearest[nearest == numbers].tolist())
    return present


def everything(run):
    """Return all that was read of a run."""
    return run.database, run.uplink, run.downlink, run.logs


class Wire:
    """A TCP proxy before a port that keeps what passes, in both directions; it reads and changes nothing."""

    def __init__(self, target):
        self._target = target
        self._up, self._down = [], []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception):
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def passed(self):
        """Return how much has passed so far, of all connections: up, and down."""
        return [len(stream) for stream in self._up], [len(stream) for stream in self._down]

    def since(self, passed):
        """Return what has passed since then: up, and down."""
        return [
            b"\n".join(bytes(stream[start:]) for stream, start in zip_longest(streams, starts, fillvalue=0))
            for streams, starts in zip((self._up, self._down), passed, strict=True)
        ]

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _end(self):
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        # A cancelled task of a server is one that asyncio complains about.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._copy(reader, far_writer, self._up), self._copy(far_reader, writer, self._down))

    async def _copy(self, reader, writer, streams):
        stream = bytearray()
        streams.append(stream)
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(1 << 16):
                    stream += data
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()


class Disk:
    """All pages that a SQLite database and its write-ahead log ever held: both are written over during a run."""

    PAGE, LOG_HEADER, FRAME_HEADER = 4096, 32, 24

    def __init__(self, path):
        self._path, self._log = path, path.with_name(f"{path.name}-wal")
        self._pages = set()

    def look(self):
        self._take(self._path, start=0, header=0)
        self._take(self._log, start=self.LOG_HEADER, header=self.FRAME_HEADER)

    def _take(self, path, *, start, header):
        for data in contents([path]):
            places = range(start + header, len(data), header + self.PAGE)
            self._pages.update(data[place : place + self.PAGE] for place in places)

    @property
    def content(self):
        return b"".join(self._pages)


class Federation:
    """A SuperLink and SuperNodes of the same machine, which run one app after another, and all that can be read of it.

    Args:
        folder: a new one, of the programs.
        nodes: how many SuperNodes there are.
        environment: of all processes.
        warm: whether clients are started as a deployed node starts them, and not by Flower's own programs.
    """

    def __init__(self, folder, *, nodes, environment, warm=True):
        self._folder, self._nodes, self._warm = folder, nodes, warm
        self._home, self._database = folder / "home", folder / "superlink.db"
        self._home.mkdir(parents=True)
        self._processes = Processes(folder / "logs", flower_environment(self._home, environment))
        self._port = free_port()
        self._wire = Wire(self._port)

    def __enter__(self):
        self._wire.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        self._processes.end()
        self._wire.__exit__()

    def _start(self):
        processes, address = self._processes, f"127.0.0.1:{self._wire.port}"
        (self._home / "config.toml").write_text(f'[superlink.{NAME}]\naddress = "{address}"\ninsecure = true\n')
        superlink = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
        listening = ["--host", "127.0.0.1", "--port", self._port, "--database", self._database]
        processes.start("superlink", *superlink, *listening)
        processes.wait_for(lambda: is_open(self._port), "the SuperLink listens")
        names = [f"supernode-{node}" for node in range(self._nodes)]
        for node, name in enumerate(names):
            identity = f"partition-id={node} num-partitions={self._nodes}"
            supernode = ["flower-supernode", "--insecure", "--superlink", address, "--node-config", identity]
            local = free_port()
            if self._warm:
                supernode += ["--isolation", "process"]
                superexec = [sys.executable, "-m", "fedtrain.flower.superexec", "--insecure"]
                processes.start(f"superexec-{node}", *superexec, "--runtime-api-address", f"127.0.0.1:{local}")
            processes.start(name, *supernode, "--port", local)
        processes.wait_for(
            lambda: all("SuperNode ID: " in processes.log(name) for name in names), "all SuperNodes are registered"
        )

    def record(self, folder, settings):
        """Run the app of this repository, and keep in a new folder what can be read until it has ended.

        What earlier runs left on the disk of the SuperLink and in the logs can be read too.
        """
        sites, out = folder / "sites", folder / "run"
        sites.mkdir(parents=True)
        settings = {**settings, "federation.sites": str(sites), "output.directory": str(out)}
        self.record_app(folder, ROOT, settings, clients=sites)

    def record_app(self, folder, app, settings, *, clients):
        """Run an app, and keep what can be read until it has ended, as `record` does.

        Args:
            folder: where it is kept.
            app: the folder of the app.
            settings: its run config.
            clients: the folder in which the clients keep their keys.
        """
        config = folder / "run.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        disk, secrets, passed = Disk(self._database), set(), self._wire.passed()
        run = self._processes.start(f"run-{folder.name}", "flwr", "run", app, NAME, "--run-config", config, "--stream")

        def ended():
            disk.look()
            secrets.update(contents(clients.glob("*/sessions/*/*/secret")))
            return run.poll() is not None

        self._processes.wait_for(ended, "the run has ended", seconds=PATIENCE, pause=0.5)
        disk.look()
        assert run.returncode == 0, self._processes.logs.decode()
        self._processes.forget(run)
        uplink, downlink = self._wire.since(passed)
        recorded = folder / "recorded"
        recorded.mkdir()
        (recorded / "database").write_bytes(disk.content)
        (recorded / "uplink").write_bytes(uplink)
        (recorded / "downlink").write_bytes(downlink)
        (recorded / "logs").write_bytes(self._processes.logs)
        (recorded / "secrets").write_text(" ".join(sorted(secret.hex() for secret in secrets)))


def flower_environment(home, environment):
    """Return the environment of Flower's programs that leave nothing outside of a folder and ask nobody."""
    return {
        **environment,
        **processes.environment(home),
        # The nodes share the cores of one machine.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",
        # A simulation begins a cluster of its own, and joins none that runs on the machine.
        "RAY_ADDRESS": "local",
        # Sums of floating-point numbers depend on the number of threads.
        "OMP_NUM_THREADS": "1",
    }


class Processes:
    """Processes that write their output to files, and that end with all that they started."""

    def __init__(self, folder, environment):
        folder.mkdir()
        self._folder = folder
        self._environment = environment
        self._started = []

    def start(self, name, *command):
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def forget(self, process):
        """Let one of them have ended."""
        self._started.remove(process)

    def log(self, name):
        return (self._folder / f"{name}.log").read_text()

    @property
    def logs(self):
        return b"\n".join(path.read_bytes() for path in sorted(self._folder.iterdir()))

    def wait_for(self, condition, what, seconds=300, pause=0.05):
        end = time.monotonic() + seconds
        while not condition():
            # Looked at before the condition is again: what it waits for may be that one of them ends.
            ended = [process.args for process in self._started if process.poll() is not None]
            assert not ended or condition(), f"{ended} ended before {what}:\n{self.logs.decode()}"
            assert time.monotonic() < end, f"after {seconds} s it is not so that {what}:\n{self.logs.decode()}"
            time.sleep(pause)

    def end(self):
        # Flower starts some processes in sessions of their own: the folder in their environment tells them.
        mark = f"FLWR_HOME={self._environment['FLWR_HOME']}".encode()
        while found := [process for process in Path("/proc").glob("[0-9]*") if mark in environment_of(process)]:
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
        for process in self._started:
            process.wait(timeout=20)


def environment_of(process):
    return b"".join(contents([process / "environ"])).split(b"\0")


def contents(paths):
    """Return what files hold, but for those that are gone meanwhile."""
    for path in paths:
        with contextlib.suppress(OSError):
            yield path.read_bytes()
