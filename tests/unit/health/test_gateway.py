import os
import socket
import ssl
from pathlib import Path

import pytest

from fedtrain.health.certificates import read_certificate
from fedtrain.health.gateway import CONTROL, control_api, gateway, nginx
from tests.ports import free_port
from tests.unit.health import folders, pki

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
