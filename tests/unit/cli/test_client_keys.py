import shutil
import warnings

import pytest

from fedtrain.crypto import Identity
from fedtrain.data.site import read_site_data
from fedtrain.deployment.processes import only_one
from fedtrain.ledger import read_policy
from fedtrain.machines import Federation, NodeFolder
from fedtrain.machines.request import read_request

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # typer imports what click deprecates
    from typer.testing import CliRunner

    from fedtrain.cli.app import app


@pytest.fixture
def node(tmp_path):
    federation = Federation(id="0" * 32, address="fl.example.org:9443", operator=Identity.generate().public)
    folder = tmp_path / "north"
    folder.mkdir(mode=0o755)
    node = NodeFolder(path=folder, name="north", client=3, federation=federation)
    node.write()
    return node


def run(*arguments):
    return CliRunner().invoke(app, ["client", *map(str, arguments)])


def test_init_makes_keys_that_others_cannot_read_and_a_request(node):
    result = run("init", node.path)
    assert result.exit_code == 0, result.output
    request = read_request(node.request)
    assert request.identity == Identity.load(node.identity).public
    assert f"fingerprint of this node's keys: {request.fingerprint} " in result.stdout
    assert f"operator's key: {node.federation.operator.key_id[:32]} " in result.stdout
    assert node.path.stat().st_mode & 0o777 == 0o700
    assert node.identity.stat().st_mode & 0o777 == node.supernode_key.stat().st_mode & 0o777 == 0o600


def test_init_again_keeps_the_keys(node):
    first = run("init", node.path)
    assert run("init", node.path).stdout == first.stdout


def test_init_fills_the_site_file_in_or_does_nothing(node, tmp_path):
    node.site.write_text('[data]\nsource = "npz"\npath = "a.npz"\n[budget]\nepsilon = 8.0\ndelta = 1e-5\n')
    refused = run("init", node.path, "--data", tmp_path / "nowhere.csv")
    assert refused.exit_code == 2
    assert "there are no records" in refused.stderr
    assert not node.identity.exists()
    (tmp_path / "records.npz").write_text("")
    result = run("init", node.path, "--data", tmp_path / "records.npz", "--classes", "a,b", "--delta", "1e-3")
    assert result.exit_code == 0, result.output
    assert f"then look at {node.site}, " in result.stdout
    data = read_site_data(node.path)
    assert (data.source, data.path, data.class_names) == ("npz", str(tmp_path / "records.npz"), ("a", "b"))
    assert read_policy(node.site).delta == 1e-3


def test_init_of_something_else_is_refused(tmp_path):
    result = run("init", tmp_path)
    assert result.exit_code == 2
    assert "is not the folder of a node" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rotate_gives_other_keys(node):
    run("init", node.path)
    before = read_request(node.request)
    result = run("rotate", node.path)
    assert result.exit_code == 0, result.output
    after = read_request(node.request)
    assert before.identity != after.identity
    assert before.supernode != after.supernode
    assert after.fingerprint in result.stdout
    assert before.fingerprint not in result.stdout
    assert "PRIVATE" not in result.output


def test_a_node_that_is_up_keeps_its_keys(node):
    run("init", node.path)
    before = node.identity.read_bytes()
    with only_one(node.path):
        result = run("rotate", node.path)
    assert result.exit_code == 2
    assert "stop that first" in result.stderr
    assert node.identity.read_bytes() == before


def test_keys_that_are_half_changed_are_used_by_no_other_command(node):
    run("init", node.path)
    node.rotation.mkdir()
    for command in ("init", "up"):
        result = run(command, node.path)
        assert (result.exit_code, "fedtrain client rotate" in result.stderr) == (2, True)
    shutil.rmtree(node.rotation)
    assert run("init", node.path).exit_code == 0


def test_a_node_without_keys_is_told_to_make_them(node):
    result = run("rotate", node.path)
    assert result.exit_code == 2
    assert "there is no key file" in result.stderr
