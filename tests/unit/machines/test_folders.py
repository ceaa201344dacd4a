import json

import pytest

from fedtrain.crypto import Identity
from fedtrain.errors import SiteError
from fedtrain.machines import (
    SERVER_VARIABLE,
    Federation,
    NodeFolder,
    ServerFolder,
    read_membership,
    write_membership,
)
from tests.federations import provisioned

OPERATOR = Identity.generate().public


def federation(**changes):
    return Federation(**{"id": "ab" * 16, "address": "fl.example.org:9443", "operator": OPERATOR, **changes})


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("fl.example.org:9443", "fl.example.org", 9443),
        ("[fd00::1]:1", "fd00::1", 1),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
    ],
)
def test_an_address_is_a_host_and_a_port(tmp_path, address, host, port):
    made = federation(address=address)
    assert (made.host, made.port) == (host, port)
    made.write(tmp_path)
    assert Federation.read(tmp_path) == made


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "fd00::1:1", "a b:1", "a:1\n", "https://a:1"],
)
def test_a_malformed_address_is_refused(address):
    with pytest.raises(ValueError, match="an address is HOST:PORT"):
        federation(address=address)


@pytest.mark.parametrize("name", ["", "AB" * 16, "ab" * 15, "ab" * 16 + "\n"])
def test_a_malformed_id_is_refused(name):
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        federation(id=name)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("id"),
        lambda value: value.update(more=1),
        lambda value: value.update(schema="fedtrain.federation/2"),
        lambda value: value.update(id=1),
        lambda value: value.update(address="host"),
        lambda value: value.update(operator="AAAA"),
    ],
)
def test_a_file_that_is_no_federation_is_refused(tmp_path, change):
    federation().write(tmp_path)
    value = json.loads((tmp_path / "federation.json").read_bytes())
    change(value)
    (tmp_path / "federation.json").write_text(json.dumps(value))
    with pytest.raises(SiteError, match=r"federation\.json cannot be used"):
        Federation.read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_files_that_are_something_else_are_refused(tmp_path, data):
    federation().write(tmp_path)
    (tmp_path / "node.json").write_bytes(data)
    with pytest.raises(SiteError, match=r"node\.json cannot be used"):
        NodeFolder.open(tmp_path)
    (tmp_path / "federation.json").write_bytes(data)
    with pytest.raises(SiteError, match=r"federation\.json cannot be used"):
        Federation.read(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path):
    for opened in (NodeFolder.open, ServerFolder.open, Federation.read):
        with pytest.raises(SiteError, match="cannot read"):
            opened(tmp_path / "nowhere")


def test_a_node_is_opened_as_it_was_written(tmp_path):
    node = NodeFolder(path=tmp_path.resolve(), name="north", client=3, federation=federation())
    node.write()
    assert NodeFolder.open(tmp_path) == node
    assert NodeFolder.open(tmp_path / ".." / tmp_path.name) == node


@pytest.mark.parametrize(
    "value",
    [
        {"name": "north"},
        {"name": "North", "client": 0},
        {"name": "north", "client": -1},
        {"name": "north", "client": True},
        {"name": "north", "client": "0"},
        {"name": "north", "client": 0, "more": 1},
    ],
)
def test_a_node_without_a_proper_name_and_number_is_refused(tmp_path, value):
    federation().write(tmp_path)
    (tmp_path / "node.json").write_text(json.dumps(value))
    with pytest.raises(SiteError, match="an object of name and client"):
        NodeFolder.open(tmp_path)


def test_the_environment_names_the_servers_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    assert ServerFolder.of_environment() is None
    server = provisioned(tmp_path).server
    monkeypatch.setenv(SERVER_VARIABLE, str(server.path))
    assert ServerFolder.of_environment() == server
    monkeypatch.setenv(SERVER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(SiteError):
        ServerFolder.of_environment()


def test_a_membership_is_read_as_it_was_written(tmp_path):
    made = provisioned(tmp_path)
    envelope = made.sign(version=7)
    write_membership(made.server.membership, envelope)
    membership, read = read_membership(made.server.membership, made.federation)
    assert (read, membership.version) == (envelope, 7)


def test_a_membership_of_others_is_refused(tmp_path):
    made = provisioned(tmp_path)
    write_membership(made.server.membership, made.sign(version=7, signer=Identity.generate()))
    with pytest.raises(SiteError, match="signed with key"):
        read_membership(made.server.membership, made.federation)
    write_membership(made.server.membership, made.sign(version=7, federation="cd" * 16))
    with pytest.raises(SiteError, match="of another federation"):
        read_membership(made.server.membership, made.federation)
    made.server.membership.unlink()
    with pytest.raises(SiteError, match="cannot read"):
        read_membership(made.server.membership, made.federation)
