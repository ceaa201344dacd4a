import json
import os
import warnings

import pytest

from tests.unit.health import folders, pki

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


@pytest.fixture
def members():
    return folders.Members.make()


@pytest.fixture
def server(tmp_path, members):
    ca = pki.authority()
    issued = pki.certificate_of(ca, "127.0.0.1")
    with pki.serving(tmp_path, issued) as port:
        yield folders.server_folder(tmp_path / "server", members, ca, issued, address=f"127.0.0.1:{port}")


@pytest.fixture
def node(tmp_path, members):
    return folders.node_folder(tmp_path / "node", members, pki.authority(), address="fl.invalid:9443")


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_a_server_in_order(server, tmp_path, monkeypatch):
    nginx = tmp_path / "bin" / "nginx"
    nginx.parent.mkdir()
    nginx.write_text("#!/bin/sh\necho 'nginx version: nginx/1.22.1' >&2\n")
    nginx.chmod(0o755)
    monkeypatch.setenv("PATH", str(nginx.parent), prepend=os.pathsep)
    result = run(server.path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.startswith(("ok    ", "warns ")) for line in lines)
    assert "ok    Control API            the gateway refuses it (404)" in lines


def test_a_node_that_reaches_nobody(node):
    result = run(node.path)
    assert result.exit_code == 1
    assert "fails DNS                    fl.invalid has no address" in result.stdout


def test_the_same_as_json(node):
    result = run(node.path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["ok"] is False
    statuses = {check["name"]: check["status"] for check in found["checks"]}
    assert (statuses["DNS"], statuses["identity"]) == ("fails", "ok")
    assert all(check["detail"] for check in found["checks"])


def test_a_folder_that_is_neither(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "federation.json" in result.stderr


def test_a_folder_that_cannot_be_looked_into(tmp_path):
    folder = tmp_path
    while (left := 4090 - len(str(folder))) > 1:  # a path may have 4,095 letters, and those of its files are longer
        folder /= "x" * min(200, left - 1)
    folder.mkdir(parents=True)
    result = run(folder)
    assert result.exit_code == 2
    assert "cannot look into" in result.stderr


def test_what_a_file_says_cannot_move_the_terminal(node):
    node.site.write_text('[budget]\n"\\u001b[2J" = 1\n')
    result = run(node.path)
    assert "\x1b" not in result.stdout
