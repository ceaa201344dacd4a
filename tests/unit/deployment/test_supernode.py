import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fedtrain.deployment.supernode import Readiness, check_node
from fedtrain.errors import KeyFileError, SiteError
from fedtrain.machines import NodeFolder, write_membership
from tests.ports import free_port
from tests.unit.health import folders
from tests.unit.health.superlinks import superlink

PATIENCE = 300


@pytest.fixture
def node(tmp_path, members, ca):
    return folders.node_folder(tmp_path / "node", members, ca)


def test_a_member_is_ready_with_its_keys(node):
    assert check_node(node) == Readiness(member=True, bundles=0)


def test_a_node_whose_keys_are_not_in_the_membership_is_no_member_yet(node, members):
    write_membership(node.membership, members.membership(version=3, clients=(1,)).sign(members.operator))
    assert not check_node(node).member


@pytest.mark.parametrize("key", ["identity", "supernode_key"])
def test_without_a_key_a_node_does_not_start(node, key):
    getattr(node, key).unlink()
    with pytest.raises(KeyFileError, match=r"there is no key .* fedtrain client init"):
        check_node(node)


@pytest.mark.parametrize("key", ["identity", "supernode_key"])
def test_a_key_that_others_can_read_is_refused(node, key):
    getattr(node, key).chmod(0o644)
    with pytest.raises(KeyFileError, match=getattr(node, key).name):
        check_node(node)


def test_half_changed_keys_are_refused(node):
    node.rotation.mkdir()
    with pytest.raises(SiteError, match="fedtrain client rotate"):
        check_node(node)


@pytest.mark.parametrize("name", ["site", "membership", "approved"])
def test_a_damaged_file_is_named(node, name):
    file = getattr(node, name)
    file.write_text("{")
    with pytest.raises(SiteError, match=file.name):
        check_node(node)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_path_that_flower_cannot_be_told_is_refused(node, name):
    moved = node.path.rename(node.path.with_name(name))
    with pytest.raises(SiteError, match="to a path of plain characters"):
        check_node(NodeFolder.open(moved))


class Gate:
    """A port of loopback that leads to another one while it is open."""

    def __init__(self, target):
        self.port, self.target = free_port(), target
        self.listener, self.links, self.lock = None, [], threading.Lock()

    def open(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def close(self):
        """Close it, and what passes. A gate that was not opened stays closed."""
        with self.lock:
            closing, self.listener, self.links = [self.listener, *self.links], None, []
        for each in filter(None, closing):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener):
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                with self.lock:
                    passes = self.listener is listener
                    self.links += [near, far] if passes else []
                if not passes:  # it was closed meanwhile
                    near.close()
                    far.close()
                    return
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    @staticmethod
    def _carry(source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def said(log, count):
    limit = time.monotonic() + PATIENCE
    while len(lines := log.read_text().splitlines()) < count:
        assert time.monotonic() < limit, lines
        time.sleep(0.1)
    return [line.split("  ", 1)[1] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_says_once_why_it_waits_and_connects_again_whenever_the_server_is_back(tmp_path, members):
    with superlink(tmp_path) as link:
        gate = Gate(int(link.address.rpartition(":")[2]))
        node = folders.node_folder(tmp_path / "node", members, link.ca, address=f"127.0.0.1:{gate.port}")
        public = tmp_path / "supernode.pub"
        public.write_text(folders.line(members.supernodes[0]))
        link.flwr("supernode", "register", str(public))
        log = tmp_path / "said"
        with log.open("wb") as file:
            command = [Path(sys.executable).parent / "fedtrain", "client", "up", node.path]
            bare = {**os.environ, "PATH": "/usr/bin:/bin"}  # as under systemd, where no venv is active
            process = subprocess.Popen([*map(str, command)], stdout=file, stderr=file, env=bare)
        try:
            assert said(log, 1)[0] == f"site-a is starting, to connect to 127.0.0.1:{gate.port}"
            assert "no bundle is approved" in said(log, 2)[1]
            waiting = f"not connected to 127.0.0.1:{gate.port}, trying again: TCP: 127.0.0.1 refuses port {gate.port}"
            connected = f"connected to 127.0.0.1:{gate.port} as site-a"
            assert said(log, 3)[2].startswith(waiting)
            gate.open()
            assert said(log, 4)[3] == connected
            gate.close()
            assert said(log, 5)[4].startswith(waiting)
            gate.open()
            assert said(log, 6)[5] == connected
            assert link.status_of_nodes() == ["online"]
            assert shutil.which("flwr-clientapp", path=path_of_superexec(node.path))
            process.terminate()
            assert process.wait(timeout=PATIENCE) == 0
            assert said(log, 7)[6:] == ["stopped"]
            assert not commands_for(node.path)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)
            gate.close()


def commands_for(folder):
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in (command := entry.read_bytes()):
                found[command] = entry.parent
    return found


def path_of_superexec(folder):
    (process,) = [entry for command, entry in commands_for(folder).items() if b"fedtrain.flower.superexec" in command]
    environment = (process / "environ").read_bytes().decode().split("\0")
    return next(line.removeprefix("PATH=") for line in environment if line.startswith("PATH="))
