import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from fedtrain.health.superlink import _is_superlink, _sockets, database, listeners, listening, loopback_only

LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
input()
"""

# As the kernel prints them: 127.0.0.1:9092 and all addresses:22 listen, and one connection is open.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 100 0 0 10 0
   2: 0100007F:2384 0100007F:8F2A 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000 20 4 30 10 -1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000 100 0 0 10 0
   1: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4715 1 0000 100 0 0 10 0
"""  # noqa: E501 - as the kernel prints it


def test_reading_the_kernels_tables():
    assert listeners(TCP + TCP6) == [
        ((IPv4Address("127.0.0.1"), 9092), 4711),
        ((IPv4Address("0.0.0.0"), 22), 4712),
        ((IPv6Address("::1"), 8080), 4714),
        ((IPv6Address("2001:db8::1"), 443), 4715),
    ]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (IPv4Address("127.0.0.1"), "ok"),
        (IPv6Address("::1"), "ok"),
        (IPv6Address("::ffff:127.0.0.1"), "ok"),
        (IPv4Address("0.0.0.0"), "fails"),
        (IPv6Address("::"), "fails"),
        (IPv6Address("::ffff:10.0.0.1"), "fails"),
    ],
)
def test_where_a_superlink_may_listen(address, status):
    check = listening([(IPv4Address("127.0.0.1"), 9091), (address, 9092)])
    assert check.status == status
    assert f"{address}:9092" in check.detail


@contextmanager
def running(host, file):
    """Run a process that looks like a SuperLink with that database, and listens."""
    command = [sys.executable, "-c", LISTEN, host, "flower-superlink", "--database", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.communicate("\n", timeout=10)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", "ok"), ("0.0.0.0", "fails")])
def test_where_a_process_listens(tmp_path, host, status):
    with running(host, tmp_path / "superlink.db") as port:
        check = loopback_only(tmp_path / "superlink.db")
        other = loopback_only(tmp_path / "other.db")
    assert check.status == status
    assert f"{host}:{port}" in check.detail
    assert other.detail == "it is not running here"


def test_a_process_that_has_ended():
    ended = Path("/proc/self/task/0")
    assert _sockets(ended) == set()
    assert not _is_superlink(ended, Path("superlink.db"))


def test_a_superlink_whose_sockets_cannot_be_seen():
    assert listening([]).status == "warns"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "superlink.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE run (id)")
        connection.commit()
    path.chmod(0o600)
    tmp_path.chmod(0o755)
    return path


def test_a_database_in_order(file):
    assert database(file).status == "ok"


def test_no_database_yet(tmp_path):
    assert "will be made" in database(tmp_path / "superlink.db").detail


def test_a_database_that_others_can_read(file):
    file.chmod(0o644)
    assert database(file).status == "fails"
    file.parent.chmod(0o700)
    assert database(file).status == "ok"


def test_a_file_that_is_no_database(file):
    file.write_bytes(b"not SQLite, and long enough to be seen as something else" * 40)
    check = database(file)
    assert check.status == "fails"
    assert "cannot be read" in check.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_database_that_cannot_be_written(file):
    file.chmod(0o400)
    assert database(file).status == "fails"
