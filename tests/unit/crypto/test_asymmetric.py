import os

import pytest

from fedtrain.crypto import AgreementKey, PublicSealingKey, SealingKey, asymmetric, derive
from fedtrain.crypto.asymmetric import OVERHEAD_BYTES, SEALING_KEY_BYTES, checked_public
from fedtrain.errors import TransportError

# RFC 7748, section 6.1.
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# RFC 7748, section 6.1, says to refuse a product of zero; these points of small order give one (section 7, and D. J.
# Bernstein's list at https://cr.yp.to/ecdh.html).
SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
]


def test_the_secret_is_that_of_rfc_7748_section_6_1():
    alice, bob = (AgreementKey(bytes.fromhex(private)) for private in (ALICE, BOB))
    assert (alice.public.hex(), bob.public.hex()) == (ALICE_PUBLIC, BOB_PUBLIC)
    expected = derive(bytes.fromhex(SHARED), "purpose", "context", 3, length=16)
    assert alice.shared(bob.public, "purpose", "context", 3, length=16) == expected
    assert bob.shared(alice.public, "purpose", "context", 3, length=16) == expected


def test_a_secret_is_for_one_pair_purpose_and_context():
    one, other, third = (AgreementKey(os.urandom(32)) for _ in range(3))
    secrets = [
        one.shared(other.public, "purpose", "context"),
        one.shared(third.public, "purpose", "context"),
        one.shared(one.public, "purpose", "context"),
        one.shared(other.public, "other", "context"),
        one.shared(other.public, "purpose", "other"),
        one.shared(other.public, "purpose", "context", 1),
        one.shared(other.public, "purpose", "context", "1"),
    ]
    assert len(set(secrets)) == len(secrets)
    assert {len(secret) for secret in secrets} == {32}


def test_what_is_agreed_again_is_the_same_whatever_a_pair_keeps(monkeypatch):
    monkeypatch.setattr(asymmetric, "_KEPT", 2)
    key, others = AgreementKey(os.urandom(32)), [AgreementKey(os.urandom(32)) for _ in range(4)]
    for number in [0, 1, 0, 2, 0, 3, 1, 1, 3, 2]:
        other = others[number]
        assert key.shared(other.public, "purpose", number) == other.shared(key.public, "purpose", number)
    assert key._agreed.cache_info().currsize == 2
    assert key._agreed.cache_info().hits


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_key_of_small_order_is_refused(public):
    with pytest.raises(TransportError, match=f"the key {public} cannot be used for a key agreement"):
        AgreementKey(bytes.fromhex(ALICE)).shared(bytes.fromhex(public), "purpose")


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_key_of_small_order_is_refused_before_it_is_used(public):
    with pytest.raises(ValueError, match="low order cannot be used: anyone knows"):
        checked_public(bytes.fromhex(public))


def test_a_key_that_can_be_used_is_returned():
    assert checked_public(bytes.fromhex(ALICE_PUBLIC)).public_bytes_raw().hex() == ALICE_PUBLIC
    with pytest.raises(ValueError, match="32 bytes"):
        checked_public(bytes(31))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_refused(size):
    with pytest.raises(TransportError, match="cannot be used for a key agreement"):
        AgreementKey(bytes.fromhex(ALICE)).shared(bytes(size), "purpose")


def test_a_derived_key_is_that_of_its_secret_and_purpose():
    keys = [
        AgreementKey.derived(*of)
        for of in ((b"s" * 32, "one"), (b"s" * 32, "one"), (b"s" * 32, "two"), (b"t" * 32, "one"))
    ]
    assert keys[0].public == keys[1].public
    assert len({key.public for key in keys}) == 3
    assert keys[0].public == AgreementKey(derive(b"s" * 32, "one")).public


def test_it_prints_as_its_public_half():
    assert repr(AgreementKey(bytes.fromhex(ALICE))) == f"AgreementKey(public='{ALICE_PUBLIC}')"


SECRET = bytes(range(32))
KEY = SealingKey(SECRET)
MLKEM = KEY.public.key[:-32]

# RFC 7748, section 6.1, and https://cr.yp.to/ecdh.html#validate: their shared secret is zero whatever the other key.
LOW_ORDER = [
    bytes(32).hex(),
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("plaintext", [b"", b"plaintext", bytes(100_000)])
def test_what_is_sealed_is_opened(plaintext):
    sealed = KEY.public.seal(plaintext, b"context")
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert KEY.open(sealed, b"context") == plaintext


def test_it_is_never_sealed_the_same_twice():
    assert KEY.public.seal(b"plaintext", b"") != KEY.public.seal(b"plaintext", b"")


def test_a_secret_stands_for_one_key():
    again = SealingKey(SECRET)
    assert again.public == KEY.public
    assert again.open(KEY.public.seal(b"plaintext", b""), b"") == b"plaintext"
    assert SealingKey(bytes(32)).public != KEY.public


def test_another_context_or_key_does_not_open_it():
    sealed = KEY.public.seal(b"plaintext", b"context")
    for key, context in ((KEY, b"Context"), (KEY, b""), (SealingKey(bytes(32)), b"context")):
        with pytest.raises(TransportError, match="changed, or sealed for another occasion or to another key"):
            key.open(sealed, context)


def test_every_changed_byte_and_every_other_length_is_refused():
    sealed = KEY.public.seal(b"plaintext", b"context")
    changed = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    cut = [sealed[:length] for length in range(0, len(sealed), 7)]
    for other in (*changed, *cut, sealed + b"\0", b"\0" + sealed):
        with pytest.raises(TransportError, match="changed"):
            KEY.open(other, b"context")


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_key_of_low_order_is_refused(point):
    with pytest.raises(ValueError, match="low order"):
        PublicSealingKey(key=MLKEM + bytes.fromhex(point))
    sealed = KEY.public.seal(b"plaintext", b"context")
    with pytest.raises(TransportError, match="changed"):
        KEY.open(sealed[:1088] + bytes.fromhex(point) + sealed[1120:], b"context")


def test_what_is_no_key_is_refused():
    for key in (b"", KEY.public.key[:-1], KEY.public.key + b"\0"):
        with pytest.raises(ValueError, match=f"has {SEALING_KEY_BYTES} bytes, and this has {len(key)}"):
            PublicSealingKey(key=key)
    with pytest.raises(ValueError, match="ML-KEM"):  # coefficients beyond the modulus: FIPS 203, section 7.2
        PublicSealingKey(key=b"\xff" * SEALING_KEY_BYTES)


def test_it_prints_the_digest_of_the_public_key_only():
    assert repr(KEY) == f"SealingKey(digest={KEY.public.digest!r})"
    assert len(KEY.public.digest) == 64
