"""What sealed messages are made of, against published vectors, and our own formats, byte for byte.

The published HPKE vectors with AES-256-GCM have associated data, which the cryptography package's single shot does not
take: here the key schedule of RFC 9180 is written out, checked against a published vector with another cipher, and used
to make what the package has to open. Our own files were written once; a change that breaks a test here makes messages
and sessions unreadable that are under way when one of two parties is updated.
"""

import hmac
import json
from hashlib import sha256, shake_256
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from fedtrain.crypto import Identity, PublicSealingKey, SealingKey, SignedEnvelope, decrypt_once, encrypt_once
from fedtrain.messaging import (
    Arrays,
    Body,
    Header,
    NodeSessions,
    SessionOffer,
    Values,
    decode,
    encode,
    open_sealed,
    seal,
)
from fedtrain.trust import SessionKeys, SessionSecrets

HERE = Path(__file__).parent
KEM = json.loads((HERE / "sealed_kem.json").read_bytes())
OURS = json.loads((HERE / "sealed_message.json").read_bytes())
RFC8032 = json.loads((HERE / "rfc8032.json").read_bytes())
IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC8032[0]["secret"])))
SECRET = bytes(range(32))
X25519_HYBRID, HKDF_SHA256, AES_256_GCM = 0x647A, 1, 2


def hkdf(key, info, length):
    blocks, block = b"", b""
    while len(blocks) < length:
        block = hmac.digest(key, block + info + bytes([len(blocks) // 32 + 1]), "sha256")
        blocks += block
    return blocks[:length]


def key_schedule(secret, info, cipher):
    """Return key and nonce as in RFC 9180, section 5.1, base mode."""
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (X25519_HYBRID, HKDF_SHA256, cipher))

    def extract(salt, label, data):
        return hmac.digest(salt, b"HPKE-v1" + suite + label + data, "sha256")

    def expand(key, label, data, length):
        return hkdf(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + data, length)

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    key = extract(secret, b"secret", b"")
    return expand(key, b"key", context, 32), expand(key, b"base_nonce", context, 12)


def sealing_key(seed):
    """Return the key of 32 bytes, as draft-connolly-cfrg-xwing-kem, section 5.2, expands it."""
    expanded = shake_256(seed).digest(96)
    key = SealingKey(SECRET)
    key._private = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])
    )
    return key


def test_the_key_schedule_is_that_of_the_published_vector():
    vector = KEM["hpke"]
    secret, info = bytes.fromhex(vector["shared_secret"]), bytes.fromhex(vector["info"])
    key, nonce = key_schedule(secret, info, vector["aead_id"])
    assert (key.hex(), nonce.hex()) == (vector["key"], vector["base_nonce"])


def kems():
    yield from ((vector["sk"], vector["ct"], vector["ss"]) for vector in KEM["xwing"])
    yield KEM["hpke"]["skRm"], KEM["hpke"]["enc"], KEM["hpke"]["shared_secret"]


@pytest.mark.parametrize(("seed", "encapsulated", "secret"), list(kems()))
def test_what_is_sealed_with_a_published_shared_secret_is_opened(seed, encapsulated, secret):
    key, nonce = key_schedule(bytes.fromhex(secret), b"context", AES_256_GCM)
    sealed = bytes.fromhex(encapsulated) + AESGCM(key).encrypt(nonce, b"plaintext", b"")
    assert sealing_key(bytes.fromhex(seed)).open(sealed, b"context") == b"plaintext"


@pytest.mark.parametrize("vector", KEM["xwing"])
def test_what_is_sealed_to_a_published_public_key_is_opened(vector):
    sealed = PublicSealingKey(key=bytes.fromhex(vector["pk"])).seal(b"plaintext", b"context")
    assert sealing_key(bytes.fromhex(vector["sk"])).open(sealed, b"context") == b"plaintext"


@pytest.mark.parametrize(
    ("plaintext", "ciphertext"),
    [
        ("", "530f8afbc74536b9a963b4f1c4cb738b"),
        ("00" * 16, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
    ],
)
def test_one_time_encryption_is_that_of_the_gcm_specification(plaintext, ciphertext):
    """Test cases 13 and 14 of McGrew and Viega's specification, those of a key of 256 bits and our nonce."""
    assert encrypt_once(bytes(32), bytes.fromhex(plaintext), b"").hex() == ciphertext
    assert decrypt_once(bytes(32), bytes.fromhex(ciphertext), b"").hex() == plaintext


def content():
    return {
        "model": Arrays(
            items={
                "weight": np.array([[1.5, -0.0], [np.inf, 3.0]], dtype=np.float32),
                "steps": np.array(7, dtype=np.int64),
                "mask": np.array([True, False, True]),
                "empty": np.zeros((0, 3), dtype=np.float16),
            }
        ),
        "metrics": Values(kind="metrics", items={"loss": 0.1, "counts": [1, -2], "nan": float("nan")}),
        "config": Values(
            kind="config",
            items={
                "name": 'größe "1"',
                "key": b"\0\xff",
                "on": True,
                "largest": 2**64 - 1,
                "parts": [b"a", b""],
                "no": [],
            },
        ),
    }


def header():
    return Header(
        run="0123456789abcdef",
        session="00112233445566778899aabbccddeeff",
        config=sha256(b"config").hexdigest(),
        phase="train",
        round=3,
        direction="to client",
        sender="server",
        recipient="client-1",
        sequence=12,
    )


def body():
    return Body.encrypt(encode(content()), random=lambda length: bytes(range(100, 100 + length)))


def announcement():
    secrets = SessionSecrets(SECRET)
    names = {"run": header().run, "session": header().session, "roster": sha256(b"roster").hexdigest()}
    keys = SessionKeys.of(secrets, **names, party="client-1").sign(IDENTITY)
    return keys, SessionOffer(**names, start=2).sign(IDENTITY)


def test_a_content_is_encoded_as_it_was():
    assert encode(content()).hex() == OURS["content"]
    assert encode(decode(bytes.fromhex(OURS["content"]))).hex() == OURS["content"]


def test_a_header_is_encoded_as_it_was():
    assert header().encode().decode() == OURS["header"]
    assert Header.decode(OURS["header"].encode()) == header()


def test_a_body_is_encrypted_as_it_was():
    assert body().ciphertext.hex() == OURS["ciphertext"]


def test_a_message_that_was_sealed_is_opened():
    own, opened = open_sealed(
        bytes.fromhex(OURS["sealed"]),
        bytes.fromhex(OURS["ciphertext"]),
        header=header(),
        key=SessionSecrets(SECRET).sealing,
        sender=IDENTITY.public,
    )
    assert own == b"own"
    assert opened.hex() == OURS["content"]


def test_a_message_is_sealed_at_the_same_length():
    sealed = seal(header(), body=body(), own=b"own", identity=IDENTITY, recipient=SessionSecrets(SECRET).sealing.public)
    assert len(sealed) == len(bytes.fromhex(OURS["sealed"]))


def test_the_keys_of_a_session_and_its_offer_are_announced_as_they_were():
    data = (HERE / "session.jsonl").read_bytes()
    keys, offer = announcement()
    assert keys.line() + offer.line() == data
    first, second = (SignedEnvelope.from_line(line) for line in data.splitlines(keepends=True))
    assert SessionKeys.verify(first, IDENTITY.public).sealing == SessionSecrets(SECRET).sealing.public.digest
    assert SessionOffer.verify(second, IDENTITY.public).session == header().session


def test_the_files_of_a_session_are_read_as_they_were_written(tmp_path):
    ids = {"run": header().run, "session": header().session}
    folder = tmp_path / ids["run"] / ids["session"]
    folder.mkdir(parents=True)
    (folder / "secret").write_bytes(SECRET)
    (folder / "secret").chmod(0o600)
    (folder / "session.json").write_text(OURS["session"])
    (folder.parent / "start").write_text(OURS["start"])
    sessions = NodeSessions(tmp_path)
    sessions.advance(**ids, sequence=12)
    assert (folder / "session.json").read_text() == OURS["session"].replace("11", "12", 1)
    sessions.begin(**ids, roster=sha256(b"roster").hexdigest(), start=2)
    assert (folder.parent / "start").read_text() == OURS["start"]
    assert sessions.secrets(**ids).masking.public == SessionSecrets(SECRET).masking.public
