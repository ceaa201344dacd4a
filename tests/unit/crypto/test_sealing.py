import pytest

from fedtrain.crypto import PublicSealingKey, SealingKey
from fedtrain.crypto.sealing import OVERHEAD_BYTES, PUBLIC_BYTES
from fedtrain.errors import TransportError

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
        with pytest.raises(ValueError, match=f"has {PUBLIC_BYTES} bytes, and this has {len(key)}"):
            PublicSealingKey(key=key)
    with pytest.raises(ValueError, match="ML-KEM"):  # coefficients beyond the modulus: FIPS 203, section 7.2
        PublicSealingKey(key=b"\xff" * PUBLIC_BYTES)


def test_it_prints_the_digest_of_the_public_key_only():
    assert repr(KEY) == f"SealingKey(digest={KEY.public.digest!r})"
    assert len(KEY.public.digest) == 64
