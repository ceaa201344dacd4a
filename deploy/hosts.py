"""Several hosts on one machine: network namespaces with addresses of their own, or folders on loopback without root."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from fedtrain.engine.process import thread_variables

NETWORK = "10.77.0"
NAME, PORT = "fl.example.org", 9443  # the server, as nodes know it
_STARTS = 240.0  # seconds for a program that stays to say that it does


class Hosts:
    """Hosts with a home folder each, that copy files to one another as with ``scp``.

    In namespaces each has its own network, and reaches the others over a switch. On loopback all share one, and the
    server's name in commands is replaced by the loopback address.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, server: str, namespaces: bool, port: int = PORT) -> None:
        """Describe the hosts; the ``with`` block makes them, and takes them away.

        Args:
            folder: where their homes are made.
            names: their names.
            server: which of them has the server's name.
            namespaces: whether they get networks of their own, which takes root.
            port: the port on loopback, where there are none.
        """
        self.folder, self.names, self.server, self.namespaces = folder, tuple(names), server, namespaces
        self.address = f"{NAME}:{PORT}" if namespaces else f"127.0.0.1:{port}"
        self._prefix = f"ft{os.getpid()}"
        self._staying: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for name in self.names:
            self.home(name).mkdir(parents=True, exist_ok=True)
        if self.namespaces:
            try:
                self._connect()
            except BaseException:
                self._disconnect()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        for host, line in list(self._staying):
            with suppress(subprocess.SubprocessError):
                self.stop(host, line)
        if self.namespaces:
            self._disconnect()

    def home(self, host: str) -> Path:
        """Return a host's home folder."""
        return self.folder / host

    def command(self, host: str, line: str) -> list[str]:
        """Return what runs a line of a shell on a host."""
        line = line.replace(f"{NAME}:{PORT}", self.address)
        inside = ["bash", "-c", line]
        return ["ip", "netns", "exec", self._namespace(host), *inside] if self.namespaces else inside

    def environment(self) -> dict[str, str]:
        """Return the environment of all commands."""
        own = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
        # The hosts share the cores of one machine; and a simulated client has one thread, too.
        return own | thread_variables(1) | {"PATH": path, "COLUMNS": "110"}

    def run(self, host: str, line: str, *, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a line on a host to its end."""
        return subprocess.run(
            self.command(host, line),
            cwd=self.home(host),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def copy(self, host: str, sources: Sequence[str], target: str) -> None:
        """Copy files from a host to another, as ``scp -r SOURCES HOST:PATH`` does."""
        other, _, path = target.partition(":")
        for source in sources:
            place = self.home(other) / path
            origin = self.home(host) / source
            if place.is_dir():
                place /= origin.name
            if origin.is_dir():
                shutil.copytree(origin, place)
            else:
                shutil.copy2(origin, place)

    def stay(self, host: str, line: str, until: str) -> None:
        """Start a program that stays, and wait until it says something."""
        log = self.log(host, line)
        start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self._staying[host, line] = subprocess.Popen(
                self.command(host, f"exec {line}"),
                cwd=self.home(host),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.await_line(host, line, until, start=start)

    def await_line(self, host: str, line: str, until: str, *, start: int = 0, seconds: float = _STARTS) -> None:
        """Wait until a program that stays says something.

        Raises:
            RuntimeError: it ends before, or says nothing of the kind.
        """
        end = time.monotonic() + seconds
        while until not in (said := self.log(host, line).read_bytes()[start:].decode(errors="replace")):
            process = self._staying[host, line]
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{host}$ {line} does not say {until!r}:\n{said}")
            time.sleep(0.2)

    def stop(self, host: str, line: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a program that stays, and return its exit status."""
        process = self._staying.pop((host, line))
        process.send_signal(number)
        return process.wait(timeout=30)

    def stays(self, host: str, line: str) -> bool:
        """Say whether a program that was started to stay is there still."""
        process = self._staying.get((host, line))
        return process is not None and process.poll() is None

    def log(self, host: str, line: str) -> Path:
        """Return the file of what a program that stays prints."""
        return self.folder / f"{host}-{'-'.join(line.split()[:3])}.log"

    def cut(self, host: str) -> None:
        """Drop every packet from and to a host. Needs namespaces."""
        self._ip("-n", self._switch, "link", "set", self._port(host), "down")

    def mend(self, host: str) -> None:
        """Let packets pass again."""
        self._ip("-n", self._switch, "link", "set", self._port(host), "up")

    @property
    def _switch(self) -> str:
        return f"{self._prefix}-switch"

    def _namespace(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _port(self, host: str) -> str:
        return f"port{self.names.index(host)}"

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def _connect(self) -> None:
        self._ip("netns", "add", self._switch)
        self._ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", self._switch, "link", "set", "bridge", "up")
        lines = ["127.0.0.1 localhost", f"{NETWORK}.{10 + self.names.index(self.server)} {NAME}"]
        for number, host in enumerate(self.names):
            space, port = self._namespace(host), self._port(host)
            # `ip netns exec` shows these files to what runs in the namespace in the place of those in /etc.
            files = Path("/etc/netns") / space
            files.mkdir(parents=True)
            (files / "hosts").write_text("\n".join(lines) + "\n")
            self._ip("netns", "add", space)
            self._ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            self._ip("-n", space, "address", "add", f"{NETWORK}.{10 + number}/24", "dev", "eth0")
            self._ip("-n", space, "link", "set", "eth0", "up")
            self._ip("-n", space, "link", "set", "lo", "up")

    def _disconnect(self) -> None:
        for space in (*map(self._namespace, self.names), self._switch):
            with suppress(subprocess.CalledProcessError):
                self._ip("netns", "delete", space)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)


def namespaces_allowed() -> bool:
    """Say whether this process may make hosts with networks of their own, by making one."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    with TemporaryDirectory() as folder:
        try:
            with Hosts(Path(folder), ["try"], server="try", namespaces=True) as hosts:
                return hosts.run("try", "true").returncode == 0
        except (OSError, subprocess.SubprocessError):
            return False
