import base64
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fedtrain.crypto import Identity, PublicIdentity
from fedtrain.errors import KeyFileError


def test_a_key_survives_its_file(tmp_path):
    path = tmp_path / "identity.pem"
    made = Identity.load_or_create(path)
    for again in (Identity.load(path), Identity.load_or_create(path)):
        assert again.public == made.public
        assert again.sign(b"data") == made.sign(b"data")
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_each_new_key_is_another():
    assert len({Identity.generate().public.key for _ in range(20)}) == 20


def test_only_the_data_that_was_signed_passes():
    identity, other = Identity.generate(), Identity.generate()
    signature = identity.sign(b"data")
    assert identity.public.signed(b"data", signature)
    assert not identity.public.signed(b"Data", signature)
    assert not other.public.signed(b"data", signature)
    for bad in (b"", signature[:-1], signature + b"\0", bytes(64)):
        assert not identity.public.signed(b"data", bad)


def test_what_is_printed_or_sent_shows_no_private_key(tmp_path):
    identity = Identity.load_or_create(tmp_path / "key")
    assert repr(identity) == f"Identity(key_id={identity.public.key_id!r})"
    with pytest.raises(TypeError):
        pickle.dumps(identity)


@pytest.mark.parametrize("cut", [0, 1, 60, 100])
def test_a_key_file_that_is_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "key"
    Identity.load_or_create(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(KeyFileError, match=f"{path} holds no private key in unencrypted PEM"):
        Identity.load(path)


def test_another_kind_of_key_is_refused(tmp_path):
    path = tmp_path / "key"
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="must be an Ed25519 key"):
        Identity.load(path)
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    with pytest.raises(KeyFileError, match="unencrypted"):
        Identity.load(path)


def test_a_public_key_is_read_back():
    public = Identity.generate().public
    assert PublicIdentity.decode(public.encode()) == public
    assert len(public.key_id) == 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        "ö" * 44,
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        base64.b64encode(bytes(32)).decode() + "\n",
        base64.b64encode(bytes(32)).decode()[:-1],
        base64.b64encode(bytes(32)).decode()[:-2] + "B=",  # bits beyond the last byte
    ],
)
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(ValueError, match=r"public key"):
        PublicIdentity.decode(text)
