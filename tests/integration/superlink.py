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
from pathlib import Path

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
        folder: the folder that ``record`` was given.
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
    """Return those of some byte strings that are in one place or another."""
    return {needle for needle in needles if any(needle in place for place in places)}


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

    @property
    def uplink(self):
        return b"\n".join(map(bytes, self._up))

    @property
    def downlink(self):
        return b"\n".join(map(bytes, self._down))

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


def record(folder, settings, *, nodes, environment, warm=True):
    """Run the app of this repository with so many nodes and keep in a folder what can be read of it.

    Args:
        folder: an empty one.
        settings: of the run.
        nodes: how many.
        environment: of all processes.
        warm: whether clients are started as a deployed node starts them, and not by Flower's own programs.
    """
    sites, out = folder / "sites", folder / "run"
    sites.mkdir(parents=True)
    settings = {**settings, "federation.sites": str(sites), "output.directory": str(out)}
    record_app(folder, ROOT, settings, nodes=nodes, environment=environment, clients=sites, warm=warm)


def record_app(folder, app, settings, *, nodes, environment, clients, warm):
    """Run an app with so many nodes and keep in a folder what can be read of it.

    Args:
        folder: where all of it is kept.
        app: the folder of the app.
        settings: its run config.
        nodes: how many SuperNodes there are.
        environment: of all processes.
        clients: the folder in which the clients keep their keys.
        warm: whether clients are started as a deployed node starts them, and not by Flower's own programs.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    environment = flower_environment(home, environment)
    config = folder / "run.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    port, database, secrets = free_port(), folder / "superlink.db", set()
    disk, processes = Disk(database), Processes(folder / "logs", environment)
    with Wire(port) as wire:
        address = f"127.0.0.1:{wire.port}"
        (home / "config.toml").write_text(f'[superlink.{NAME}]\naddress = "{address}"\ninsecure = true\n')
        try:
            superlink = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
            processes.start("superlink", *superlink, "--host", "127.0.0.1", "--port", port, "--database", database)
            processes.wait_for(lambda: is_open(port), "the SuperLink listens")
            for node in range(nodes):
                identity = f"partition-id={node} num-partitions={nodes}"
                supernode = ["flower-supernode", "--insecure", "--superlink", address, "--node-config", identity]
                local = free_port()
                if warm:
                    supernode += ["--isolation", "process"]
                    superexec = [sys.executable, "-m", "fedtrain.flower.superexec", "--insecure"]
                    processes.start(f"superexec-{node}", *superexec, "--runtime-api-address", f"127.0.0.1:{local}")
                processes.start(f"supernode-{node}", *supernode, "--port", local)
            processes.wait_for(
                lambda: all("SuperNode ID: " in processes.log(f"supernode-{node}") for node in range(nodes)),
                "all SuperNodes are registered",
            )
            run = processes.start("run", "flwr", "run", app, NAME, "--run-config", config, "--stream")

            def ended():
                disk.look()
                secrets.update(contents(clients.glob("*/sessions/*/*/secret")))
                return run.poll() is not None

            processes.wait_for(ended, "the run has ended", seconds=PATIENCE, pause=0.5)
        finally:
            processes.end()
    disk.look()
    assert run.returncode == 0, processes.logs.decode()
    recorded = folder / "recorded"
    recorded.mkdir()
    (recorded / "database").write_bytes(disk.content)
    (recorded / "uplink").write_bytes(wire.uplink)
    (recorded / "downlink").write_bytes(wire.downlink)
    (recorded / "logs").write_bytes(processes.logs)
    (recorded / "secrets").write_text(" ".join(sorted(secret.hex() for secret in secrets)))


def flower_environment(home, environment):
    """Return the environment of Flower's programs that leave nothing outside of a folder and ask nobody."""
    return {
        **environment,
        **processes.environment(home),
        # The nodes share the cores of one machine.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",
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

    def log(self, name):
        return (self._folder / f"{name}.log").read_text()

    @property
    def logs(self):
        return b"\n".join(path.read_bytes() for path in sorted(self._folder.iterdir()))

    def wait_for(self, condition, what, seconds=120, pause=0.05):
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
