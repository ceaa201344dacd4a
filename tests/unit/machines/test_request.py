import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.errors import ForgeryError, KeyFileError, SiteError, StorageError
from fedtrain.machines import Federation, NodeFolder
from fedtrain.machines.request import PAYLOAD_TYPE, Request, make_keys, read_request, supernode_public
from tests.federations import provisioned
from tests.killing import killed_after

IDENTITY = Identity.generate()
KEY = ec.generate_private_key(ec.SECP384R1())


def line(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def asked(**changes):
    return Request(
        **{
            "federation": "ab" * 16,
            "name": "north",
            "client": 3,
            "identity": IDENTITY.public,
            "supernode": line(KEY),
            **changes,
        }
    )


def signed(signer=IDENTITY, **changes):
    """Return a request whose payload somebody wrote differently, and signed with the identity."""
    payload = json.loads(asked().sign(IDENTITY, KEY).payload) | changes
    payload = {name: value for name, value in payload.items() if value is not None}
    return SignedEnvelope.sign(PAYLOAD_TYPE, canonical(payload), signer).line()


def test_what_a_node_asks_is_read():
    assert Request.read(asked().sign(IDENTITY, KEY).line()) == asked()
    assert Request.read(signed()) == asked()


def test_the_fingerprint_is_of_both_keys_and_nothing_else():
    fingerprint = asked().fingerprint
    assert len(fingerprint.split()) == 8
    assert asked(name="south", client=0).fingerprint == fingerprint
    assert asked(identity=Identity.generate().public).fingerprint != fingerprint
    assert asked(supernode=line(ec.generate_private_key(ec.SECP384R1()))).fingerprint != fingerprint


def test_nobody_asks_with_the_supernode_key_of_another():
    stranger = Identity.generate()
    taken = asked(identity=stranger.public)
    with pytest.raises(ForgeryError, match="not signed with the key of its SuperNode"):
        Request.read(taken.sign(stranger, ec.generate_private_key(ec.SECP384R1())).line())
    # The signature of the other's own request is of its own identity.
    with pytest.raises(ForgeryError, match="not signed with the key of its SuperNode"):
        Request.read(signed(stranger, identity=stranger.public.encode()))


def test_nobody_asks_with_the_identity_of_another():
    with pytest.raises(ForgeryError, match="signed with key"):
        Request.read(asked().sign(Identity.generate(), KEY).line())


@pytest.mark.parametrize(
    "changes",
    [
        {"client": 4},
        {"client": "3"},
        {"client": 3.5},
        {"client": True},
        {"client": None},
        {"client": [3]},
        {"federation": "cd" * 16},
        {"name": "south"},
        {"identity": "AAAA"},
        {"supernode": "ssh-ed25519 AAAA"},
        {"supernode": "no key"},
        {"supernode": line(KEY) + " comment"},
        {"supernode": line(ec.generate_private_key(ec.SECP256R1()))},
        {"supernode": line(ed25519.Ed25519PrivateKey.generate())},
        {"supernode": "ssh-unheard-of " + line(KEY).split()[1]},
        {"signature": "AAAA"},
        {"signature": "?"},
        {"signature": None},
        {"more": 1},
    ],
)
def test_a_request_that_was_changed_is_refused(changes):
    with pytest.raises(ForgeryError):
        Request.read(signed(**changes))


@pytest.mark.parametrize("name", ["../north", "North", "", "a" * 64, "no\x1b[2Jrth"])
def test_a_name_that_could_not_be_printed_or_be_a_file_is_refused(name):
    with pytest.raises(ForgeryError, match="is not a name of a node"):
        Request.read(asked(name=name).sign(IDENTITY, KEY).line())


@pytest.mark.parametrize(
    "data", [b"", b"{}\n", b"\xff\n", b"[" * 100_000, SignedEnvelope.sign(PAYLOAD_TYPE, b"[]", IDENTITY).line()]
)
def test_a_file_that_is_no_request_is_refused(data, tmp_path):
    (tmp_path / "request.json").write_bytes(data)
    with pytest.raises(SiteError, match=r"request\.json (cannot be used|is larger than any)"):
        read_request(tmp_path / "request.json")


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "request.json")
    with pytest.raises(SiteError, match="is no file"):
        read_request(tmp_path / "request.json")


@pytest.mark.parametrize("client", [1e999, 1.5, True, "1", None])
def test_a_number_that_is_not_whole_is_refused(client):
    value = json.loads(asked().sign(IDENTITY, KEY).payload) | {"client": client}
    with pytest.raises(ForgeryError, match="cannot be read"):
        Request.read(SignedEnvelope.sign(PAYLOAD_TYPE, json.dumps(value).encode(), IDENTITY).line())


def test_an_identity_that_is_gone_is_not_made_anew_beside_its_ledgers(tmp_path):
    node = provisioned(tmp_path).nodes[0]
    make_keys(node)
    (node.path / "ledgers").mkdir()
    (node.path / "ledgers" / f"{'a' * 64}.jsonl").write_text("")
    node.identity.unlink()
    with pytest.raises(KeyFileError, match="put it back from a backup"):
        make_keys(node)
    assert not node.identity.exists()


def test_a_request_of_another_type_is_refused():
    envelope = asked().sign(IDENTITY, KEY)
    other = SignedEnvelope.sign("application/json", envelope.payload, IDENTITY)
    with pytest.raises(ForgeryError, match="of type 'application/json'"):
        Request.read(other.line())


def test_a_request_whose_bytes_are_in_another_form_is_refused():
    envelope = asked().sign(IDENTITY, KEY)
    spaced = json.dumps(json.loads(envelope.payload)).encode()
    with pytest.raises(ForgeryError, match="only form"):
        Request.read(SignedEnvelope.sign(PAYLOAD_TYPE, spaced, IDENTITY).line())


def test_a_request_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SiteError, match="cannot read the request"):
        read_request(tmp_path / "request.json")


@pytest.fixture
def node(tmp_path):
    federation = Federation(id="ab" * 16, address="fl.example.org:9443", operator=Identity.generate().public)
    (tmp_path / "node").mkdir()
    return NodeFolder(path=tmp_path / "node", name="north", client=3, federation=federation)


def test_keys_are_made_once(node):
    request = make_keys(node)
    assert make_keys(node) == request == read_request(node.request)
    assert supernode_public(node) == request.supernode
    assert base64.b64encode(node.identity.read_bytes()) not in node.request.read_bytes()


def test_killed_at_any_step_the_same_keys_are_asked_with_in_the_end(node):
    step, seen = 0, set()
    while True:
        with killed_after(step, node.path) as killed:
            make_keys(node)
        if node.identity.exists():
            seen.add(node.identity.read_bytes())
        if not killed:
            break
        step += 1
    assert len(seen) == 1
    assert read_request(node.request).supernode == supernode_public(node)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no key",
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_another_kind_of_key_is_refused_without_showing_it(node, data):
    node.supernode_key.write_bytes(data)
    node.supernode_key.chmod(0o600)
    for use in (make_keys, supernode_public):
        with pytest.raises(KeyFileError) as caught:
            use(node)
        assert "BEGIN" not in str(caught.value)


def test_a_key_that_others_can_read_is_refused(node):
    make_keys(node)
    node.supernode_key.chmod(0o640)
    with pytest.raises(KeyFileError, match="can be used by others"):
        make_keys(node)


def test_a_folder_that_is_gone_is_said(node):
    node.path.rmdir()
    with pytest.raises(StorageError, match="cannot keep others out"):
        make_keys(node)
