import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedtrain.crypto import Identity
from fedtrain.flower import admission
from fedtrain.flower.admission import ask, judged, leave
from fedtrain.machines import Federation, NodeFolder
from tests.ports import free_port
from tests.unit.health import pki, superlinks

OPERATOR = Identity.generate().public


def node_at(folder, address, ca, key=None):
    """Make a node's folder with a key of its own."""
    folder.mkdir()
    federation = Federation(id="ab" * 16, address=address, operator=OPERATOR)
    node = NodeFolder(path=folder, name="site-a", client=0, federation=federation)
    ca.write(node.ca)
    key = key or ec.generate_private_key(ec.SECP384R1())
    node.supernode_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    node.supernode_key.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (folder / "supernode.pub").write_bytes(public + b"\n")
    return node


@pytest.fixture(scope="module")
def superlink(tmp_path_factory):
    with superlinks.superlink(tmp_path_factory.mktemp("superlink")) as link:
        yield link


def test_a_key_that_the_superlink_knows_and_one_that_it_does_not(superlink, tmp_path):
    node = node_at(tmp_path / "a", superlink.address, superlink.ca)
    assert ask(node).status == "fails"
    assert "is not admitted, or was revoked" in ask(node).detail
    added = superlink.flwr("supernode", "register", str(node.path / "supernode.pub"))
    assert added["success"]
    before = superlink.status_of_nodes()
    assert ask(node).status == "ok"
    assert superlink.status_of_nodes() == before == ["registered"]
    assert ask(node_at(tmp_path / "b", superlink.address, superlink.ca)).status == "fails"


def test_leave_is_taken_for_a_node_that_was_killed_and_its_successor_is_let_in_at_once(superlink, tmp_path):
    node = node_at(tmp_path / "a", superlink.address, superlink.ca)
    superlink.flwr("supernode", "register", str(node.path / "supernode.pub"))
    number = activated(node)
    assert superlink.status_of_nodes()[-1] == "online"
    with pytest.raises(httpx.HTTPStatusError):  # its predecessor has taken no leave
        activated(node)
    stranger = node_at(tmp_path / "b", superlink.address, superlink.ca)
    assert not leave(stranger, number)
    assert superlink.status_of_nodes()[-1] == "online"
    assert leave(node, number)
    assert superlink.status_of_nodes()[-1] == "offline"
    assert not leave(node, number)
    assert activated(node) == number


def activated(node, interval=30.0):
    """Become the node, as a SuperNode does, and return its number."""
    private, certificates = admission._files(node)
    request = ActivateNodeRequest(public_key=public_key_to_bytes(private.public_key()), heartbeat_interval=interval)
    with admission._client(node, private, certificates) as client:
        return client.ActivateNode(request).node_id


def test_no_leave_is_taken_of_a_server_that_is_away_or_without_a_key(tmp_path):
    node = node_at(tmp_path / "a", f"127.0.0.1:{free_port()}", pki.authority())
    assert not leave(node, 7)
    node.supernode_key.unlink()
    assert not leave(node, 7)


def test_a_superlink_that_another_ca_speaks_for_is_not_asked(superlink, tmp_path):
    check = ask(node_at(tmp_path / "a", superlink.address, pki.authority("CA of the SuperLink")))
    assert check.status == "warns"
    assert "CERTIFICATE_VERIFY_FAILED" in check.detail


def test_a_server_that_is_away(tmp_path):
    check = ask(node_at(tmp_path / "a", f"127.0.0.1:{free_port()}", pki.authority()))
    assert check.status == "warns"
    assert "was not asked" in check.detail


def test_a_server_that_answers_otherwise(tmp_path):
    ca = pki.authority()
    issued = pki.certificate_of(ca, "127.0.0.1")
    with pki.serving(tmp_path, issued, statuses=[("/v1/fleet/activate-node", 200)]) as port:
        check = ask(node_at(tmp_path / "a", f"127.0.0.1:{port}", ca))
    assert check.status == "warns"
    assert "does not know" in check.detail


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"\xff\xff"), (400, b"[" * 100_000), (400, b'{"code": ' + b"1" * 5000 + b"}"), (302, b"")],
)
def test_a_server_that_answers_what_it_likes_ends_no_node(tmp_path, status, body):
    ca, paths = pki.authority(), [f"/v1/fleet/{name}-node" for name in ("activate", "deactivate")]
    answers = {"statuses": dict.fromkeys(paths, status), "bodies": dict.fromkeys(paths, body)}
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1"), **answers) as port:
        node = node_at(tmp_path / "a", f"127.0.0.1:{port}", ca)
        assert ask(node).status == "warns"
        assert not leave(node, 7)


def test_a_server_whose_name_cannot_be_one(tmp_path):
    node = node_at(tmp_path / "a", "..:1", pki.authority())
    assert ask(node).status == "warns"
    assert not leave(node, 7)


def test_the_proxy_of_the_environment_is_taken_as_by_the_supernode(tmp_path, monkeypatch):
    ca = pki.authority()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pki.serving(tmp_path, pki.certificate_of(ca, "127.0.0.1")) as port:
        check = ask(node_at(tmp_path / "a", f"127.0.0.1:{port}", ca))
    assert check.status == "warns"
    assert "refused" in check.detail


@pytest.mark.parametrize("damage", ["missing", "open", "other", "ca"])
def test_files_that_cannot_be_used(tmp_path, damage):
    key = ed25519.Ed25519PrivateKey.generate() if damage == "other" else None
    node = node_at(tmp_path / "a", "127.0.0.1:1", pki.authority(), key)
    if damage == "missing":
        node.supernode_key.unlink()
    elif damage == "open":
        node.supernode_key.chmod(0o644)
    elif damage == "ca":
        node.ca.unlink()
    check = ask(node)
    assert check.status == "warns"
    assert "was not asked, since" in check.detail


@pytest.mark.parametrize(
    ("status", "text", "judgement"),
    [
        (400, '{"code": 2003, "detail": "Invalid heartbeat interval."}', "ok"),
        (412, '{"code": 2004, "detail": "Failed to activate SuperNode."}', "fails"),
        (401, '{"detail": "Invalid SuperNode authentication"}', "fails"),
        (400, '{"code": 1, "detail": "another"}', "warns"),
        (502, "<html>", "warns"),
    ],
)
def test_what_a_refusal_means(status, text, judgement):
    assert judged(status, text, "site-a").status == judgement
