import json
import re
import shutil
import warnings
from pathlib import Path

import pytest

from fedtrain.deployment.processes import only_one
from fedtrain.machines import NodeFolder, read_membership
from fedtrain.machines.request import make_keys
from fedtrain.provision.operator import OperatorFolder

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, ["provision", *map(str, arguments)])


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "PRIVATE" not in result.output
    return result


@pytest.fixture
def federation(tmp_path):
    path = tmp_path / "federation"
    done("init", path, "--address", "fl.example.org:9443", "--name", "10.1.2.3")
    return path


@pytest.fixture
def node(federation, tmp_path):
    """Return a node that was added and has keys."""
    done("add", federation, "north")
    shutil.copytree(federation / "kits" / "north", tmp_path / "north")
    node = NodeFolder.open(tmp_path / "north")
    make_keys(node)
    return node


def test_init_names_the_federation_and_the_operators_key(tmp_path):
    result = done("init", tmp_path / "federation", "--address", "fl.example.org:9443")
    operator = OperatorFolder.open(tmp_path / "federation")
    assert f"federation {operator.federation.id}, whose server is fl.example.org:9443\n" in result.stdout
    assert f"operator's key: {operator.operator.public.key_id[:32]}\n" in result.stdout
    again = run("init", tmp_path / "federation", "--address", "fl.example.org:9443")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "is there already" in again.stderr


@pytest.mark.parametrize(
    "arguments", [["--address", "nowhere"], ["--address", "a:1", "--name", ""], ["--address", "a:1", "--days", "0"], []]
)
def test_init_refuses_what_makes_no_federation(tmp_path, arguments):
    assert run("init", tmp_path / "federation", *arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_node_is_added_admitted_listed_and_revoked(federation, node):
    request = make_keys(node)
    result = done("admit", federation, "north", node.request)
    assert f"north is a member, with the fingerprint {request.fingerprint}\n" in result.stdout
    assert "compare it with what the site reads out" in result.stdout
    assert "membership version 2" in result.stdout
    member = rf"^ +0  north +member +{request.identity.key_id[:16]}$"
    assert re.search(member, done("list", federation).stdout, re.MULTILINE)
    assert "north is not a member any more\nmembership version 3" in done("revoke", federation, "north").stdout
    assert re.search(r"^ +0  north +not a member", done("list", federation).stdout, re.MULTILINE)


def test_the_servers_copy_of_the_membership_is_the_newest(federation, node):
    done("admit", federation, "north", node.request)
    server = OperatorFolder.open(federation).server
    assert read_membership(server.membership, server.federation)[0].names == {0: "north"}


def test_a_fingerprint_that_was_read_out_is_compared(federation, node):
    fingerprint = make_keys(node).fingerprint
    other = fingerprint[:-1] + ("0" if fingerprint[-1] != "0" else "1")
    result = run("admit", federation, "north", node.request, "--fingerprint", other)
    assert result.exit_code == 1
    assert "the site read out another" in result.stderr
    assert OperatorFolder.open(federation).membership.version == 1
    result = done("admit", federation, "north", node.request, "--fingerprint", fingerprint.upper().replace(" ", ""))
    assert "compare" not in result.stdout


def test_new_keys_need_to_be_asked_for(federation, node):
    done("admit", federation, "north", node.request)
    for key in (node.identity, node.supernode_key):
        key.unlink()
    make_keys(node)
    result = run("admit", federation, "north", node.request)
    assert result.exit_code == 2
    assert "--rotate" in result.stderr
    assert "membership version 3" in done("admit", federation, "north", node.request, "--rotate").stdout


def test_a_damaged_request_is_refused(federation, node):
    node.request.write_bytes(node.request.read_bytes().replace(b"e", b"f", 1))
    result = run("admit", federation, "north", node.request)
    assert result.exit_code == 2
    assert "ask the site for its request.json again" in result.stderr
    assert run("admit", federation, "north", federation / "nothing").exit_code == 2
    assert OperatorFolder.open(federation).membership.version == 1


def test_a_member_does_not_get_the_number_of_another_by_a_request_in_its_name(federation, node, tmp_path):
    done("admit", federation, "north", node.request)
    done("add", federation, "south")
    forged = tmp_path / "forged"
    shutil.copytree(federation / "kits" / "north", forged)
    fingerprint = make_keys(NodeFolder.open(forged)).fingerprint
    result = run("admit", federation, "south", forged / "request.json", "--rotate", "--fingerprint", fingerprint)
    assert result.exit_code == 1
    assert "the request is of 'north', and not of 'south': nothing was signed" in result.stderr
    assert OperatorFolder.open(federation).membership.version == 2


def test_the_servers_certificate_is_renewed(federation):
    before = OperatorFolder.open(federation).server.certificate.read_bytes()
    result = done("rotate-server", federation, "--days", "9")
    operator = OperatorFolder.open(federation)
    assert operator.server.certificate.read_bytes() != before
    assert f"carry {operator.server.certificate}, {operator.server.certificate_key} to" in result.stdout
    assert operator.membership.version == 1
    for arguments in (["list", federation], ["add", federation, "south"]):
        assert "warning: the server's certificate expires on" in done(*arguments).stderr
    result = done("rotate-server", federation, "--identity", "--name", "other")
    assert result.stderr == ""
    assert f"the certificate is for {operator.federation.host}, 10.1.2.3, localhost, 127.0.0.1, other" in result.stdout
    assert f"{operator.server.certificate_key}, {operator.server.identity} to" in result.stdout
    assert "membership version 2" in result.stdout
    shutil.rmtree(operator.server.path)
    result = run("rotate-server", federation)
    assert result.exit_code == 2
    assert "make another server with --identity" in result.stderr
    assert f"carry {operator.server.path}, made anew, to" in done("rotate-server", federation, "--identity").stdout


def test_what_is_no_federation_is_refused_and_left_as_it_is(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        for arguments in (["add", path, "north"], ["list", path], ["revoke", path, "north"], ["rotate-server", path]):
            result = run(*arguments)
            assert result.exit_code == 2
            assert "federation.json" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_commands_do_not_sign_at_once(federation, node):
    with only_one(federation):
        result = run("admit", federation, "north", node.request)
    assert result.exit_code == 2
    assert "is in use" in result.stderr
    done("admit", federation, "north", node.request)


def test_a_move_without_grace_is_one_that_sites_are_told_of(federation):
    told = done("readdress", federation, "--address", "fl.example.net:9444", "--grace", "0")
    assert "warning: without a time of grace no node is told at fl.example.org:9443: " in told.stderr
    assert "without a time of grace" not in done("readdress", federation, "--address", "fl.example.com:1").stderr


def test_a_server_moves_and_its_ca_is_renewed_in_words(federation, node, tmp_path):
    first = done("list", federation).stdout
    moved = done("readdress", federation, "--address", "fl.example.net:9444", "--grace", "7").stdout
    assert "the server is at fl.example.net:9444, and was at fl.example.org:9443: directions version 1\n" in moved
    assert re.search(r"until 20\d\d-\d\d-\d\d nodes also try fl\.example\.org:9443\n", moved)
    files = ", ".join(
        str(federation / "server" / name) for name in ("directions.json", "ca.pem", "server.crt", "server.key")
    )
    assert f"carry {files} to the server's machine, in secret, and start it again; it tells the nodes\n" in moved
    again = run("readdress", federation, "--address", "fl.example.net:9444")
    assert (again.exit_code, "is at fl.example.net:9444 already" in again.stderr) == (2, True)

    begun = json.loads(done("renew-ca", federation, "--json").stdout)
    assert (begun["directions"], [Path(file).name for file in begun["carry"]]) == (2, ["directions.json", "ca.pem"])
    shutil.copy2(federation / "directions.json", tmp_path / "earlier.json")
    listed = done("list", federation).stdout
    assert "directions version 2\n" in listed
    assert f"the CA is being renewed; the former one retires on {begun['retires']}\n" in listed
    assert "directions" not in first
    finished = done("renew-ca", federation, "--finish")
    assert "nodes trust the new CA alone: directions version 3\n" in finished.stdout
    assert f"the former CA was to be used until {begun['retires']}" in finished.stderr
    assert run("renew-ca", federation, "--finish").exit_code == 2

    def follow(file):
        return CliRunner().invoke(app, ["client", "follow", str(node.path), str(file)])

    taken = follow(federation / "directions.json")
    assert taken.exit_code == 0, taken.output
    assert "directions version 3: the server is at fl.example.net:9444\nthey are new to this node\n" in taken.stdout
    assert "this node has them already\n" in follow(federation / "directions.json").stdout
    older = follow(tmp_path / "earlier.json")
    assert (older.exit_code, "has others of version 3" in older.stderr) == (1, True)
    assert (follow(tmp_path / "nowhere").exit_code, follow(node.site).exit_code) == (2, 2)
    status = CliRunner().invoke(app, ["client", "status", str(node.path)]).stdout
    assert "of the federation at fl.example.net:9444: not up\nit also tries fl.example.org:9443, " in status
