import os
import socket
import sqlite3
import ssl
import subprocess
import sys
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from fedtrain.crypto import Identity
from fedtrain.health.keys import read_certificate
from fedtrain.health.server import (
    CONTROL,
    _is_superlink,
    _sockets,
    control_api,
    database,
    gateway,
    listeners,
    listening,
    loopback_only,
    nginx,
    server_checks,
)
from fedtrain.machines import write_membership
from tests.ports import free_port
from tests.unit.health import folders, pki
from tests.unit.health.pki import DAY


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def server(tmp_path, members, ca, address):
    return folders.server_folder(tmp_path / "server", members, ca, address=address)


def statuses(server):
    # nginx and the space on the disk are this machine's, and tested on their own.
    return {check.name: check.status for check in server_checks(server) if check.name not in {"nginx", "disk"}}


def test_a_server_in_order_that_is_down(server):
    expected = ["versions", "permissions", "folder", "database", "identity", "membership", "admitted", "CA"]
    expected += ["certificate", "chain", "names", "TLS key", "DNS", "port", "SuperLink"]
    assert statuses(server) == dict.fromkeys(expected, "ok")


def faults(server):
    return {name for name, status in statuses(server).items() if status != "ok"}


def test_no_certificate(server):
    server.certificate.unlink()
    assert faults(server) == {"certificate"}


def test_an_expired_certificate_of_another_ca_for_another_name(server, address):
    other = pki.authority("another", ends=10 * DAY)
    issued = pki.certificate_of(other, "fl.example.org", begins=-3 * DAY, ends=-DAY)
    issued.write(server.certificate)
    assert faults(server) == {"certificate", "chain", "names", "TLS key"}
    other.write(server.ca)
    assert faults(server) == {"CA", "certificate", "names", "TLS key"}


def test_an_identity_that_nobody_knows(server, members):
    folders.secret(server.identity, folders.pem_key(Identity.generate()))
    assert faults(server) == {"admitted"}
    server.identity.chmod(0o644)
    assert faults(server) == {"identity"}


def test_a_membership_by_somebody_else(server, members):
    write_membership(server.membership, members.membership().sign(Identity.generate()))
    assert faults(server) == {"membership"}


def test_a_name_that_this_machine_does_not_know_is_no_failure(tmp_path, members, ca):
    server = folders.server_folder(tmp_path / "server", members, ca, address="fl.invalid:39443")
    assert statuses(server)["DNS"] == "warns"


UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def program(folder, text):
    path = folder / "nginx"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_nginx_says_its_version(tmp_path, monkeypatch):
    program(tmp_path, "echo 'nginx version: nginx/1.22.1' >&2")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    check = nginx()
    assert (check.status, check.detail) == ("ok", f"{tmp_path / 'nginx'}, nginx/1.22.1")


def test_no_nginx(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    check = nginx()
    assert check.status == "fails"
    assert "apt-get install nginx" in check.detail


def test_an_nginx_that_does_not_run(tmp_path, monkeypatch):
    program(tmp_path, "exit 3")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert nginx().status == "fails"


@pytest.fixture
def issued(ca):
    return pki.certificate_of(ca, "127.0.0.1")


def checked(folder, members, ca, issued, port):
    server = folders.server_folder(folder / "server", members, ca, issued, address=f"127.0.0.1:{port}")
    return {check.name: check for check in gateway(server, read_certificate(server.certificate))}


def test_a_port_that_is_free(tmp_path, members, ca, issued):
    found = checked(tmp_path, members, ca, issued, free_port())
    assert [(check.name, check.status) for check in found.values()] == [("port", "ok")]
    assert "is free" in found["port"].detail


def test_a_port_that_this_server_serves(tmp_path, members, ca, issued):
    with pki.serving(tmp_path, issued) as port:
        found = checked(tmp_path, members, ca, issued, port)
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(
        ("port", "TLS", "health", "clock", "Control API"), "ok"
    )
    assert found["Control API"].detail == "the gateway refuses it (404)"


def test_a_gateway_that_forwards_the_control_api(tmp_path, members, ca, issued):
    with pki.serving(tmp_path, issued, statuses=[(CONTROL, 200)]) as port:
        found = checked(tmp_path, members, ca, issued, port)
    assert found["Control API"].status == "fails"
    assert "anyone who reaches this port can run code" in found["Control API"].detail


def test_a_gateway_that_goes_away(tmp_path, members, ca, issued):
    server = folders.server_folder(tmp_path / "server", members, ca, issued)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = other.getsockname()
    assert control_api(server, address).status == "warns"


def test_a_gateway_with_the_certificate_of_before(tmp_path, members, ca, issued):
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        (check,) = checked(tmp_path, members, ca, issued, port).values()
    assert check.status == "fails"
    assert "before the certificate was changed" in check.detail


def test_a_gateway_without_tls_1_3(tmp_path, members, ca, issued):
    with pki.serving(tmp_path, issued, version=ssl.TLSVersion.TLSv1_2) as port:
        found = checked(tmp_path, members, ca, issued, port)
    assert found["TLS"].status == "fails"
    assert found["Control API"].status == "warns"


def test_another_program_on_the_port(tmp_path, members, ca, issued):
    with pki.answering(b"SSH-2.0-OpenSSH_9.2p1\r\n") as port:
        (check,) = checked(tmp_path, members, ca, issued, port).values()
    assert check.status == "fails"
    assert "another program" in check.detail


@pytest.mark.skipif(int(UNPRIVILEGED.read_text()) <= 443, reason="this kernel lets everybody use every port")
def test_a_port_that_needs_privileges(tmp_path, members, ca, issued):
    server = folders.server_folder(tmp_path / "server", members, ca, issued, address="127.0.0.1:443")
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        (check,) = gateway(server, issued.certificate)
    finally:
        os.seteuid(user)
    assert check.status == "fails"
    assert "a port above 1023" in check.detail


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
