import hmac
import os
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from fedtrain.crypto import (
    apply_mask,
    canonical,
    decrypt_once,
    decrypt_parts,
    derive,
    encrypt_once,
    encrypt_parts,
    symmetric,
)
from fedtrain.crypto.symmetric import TAG_BYTES
from fedtrain.errors import TransportError


def hkdf(secret, info, length):
    """Derive as RFC 5869 says, without a salt."""
    key = hmac.digest(bytes(32), secret, "sha256")
    block, output, number = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
        number += 1
    return output[:length]


def test_the_reference_is_that_of_rfc_5869_appendix_a_3():
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected


@pytest.mark.parametrize("length", [1, 16, 32, 33, 64, 200])
@pytest.mark.parametrize("context", [(), ("one",), ("one", 2), ("größe", 2**53 - 1)])
def test_it_is_hkdf_with_purpose_and_context_as_info(length, context):
    info = canonical(["fedtrain", "purpose", *context])
    assert derive(b"secret of at least 16", "purpose", *context, length=length) == hkdf(
        b"secret of at least 16", info, length
    )


def test_no_two_purposes_or_contexts_are_one():
    subjects = [
        ("a",),
        ("ab",),
        ("a", "b"),
        ("a", "b", "c"),
        ("a", "bc"),
        ("a", 1),
        ("a", "1"),
        ("a", 1, 2),
        ("a", 12),
        ('a","b',),
    ]
    assert len({derive(bytes(32), *subject) for subject in subjects}) == len(subjects)
    assert derive(bytes(32), "a") != derive(bytes(31), "a")


SEED = bytes(range(16))


def keystream(key, counter, blocks):
    """Encrypt a counter block by block."""
    encrypt = Cipher(AES256(key), ECB()).encryptor()
    return b"".join(encrypt.update((counter + block).to_bytes(16, "big")) for block in range(blocks))


def mask(length, seed=SEED, start=0):
    vector = np.full(length, start, dtype=np.uint32)
    apply_mask(vector, seed, sign=1)
    return vector


def test_the_reference_is_that_of_nist_sp_800_38a_f_5_5():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    expected = (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    stream = keystream(key, int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16), 4)
    assert bytes(one ^ other for one, other in zip(plain, stream, strict=True)).hex() == expected


@pytest.mark.parametrize("length", [1, 3, 4, 65_535, 65_536, 65_537, 131_073])
def test_a_mask_is_the_keystream_from_zero_as_little_endian_words(length):
    stream = keystream(derive(SEED, "mask"), 0, -(-length // 4))
    np.testing.assert_array_equal(mask(length), np.frombuffer(stream, dtype="<u4")[:length])


def test_a_mask_is_added_modulo_2_to_the_32_and_taken_off_again():
    vector = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    masked = vector.copy()
    apply_mask(masked, SEED, sign=1)
    np.testing.assert_array_equal(masked, vector + mask(100_000))
    apply_mask(masked, SEED, sign=-1)
    np.testing.assert_array_equal(masked, vector)


@pytest.mark.parametrize("sign", [1, -1])
def test_many_masks_at_once_are_as_many_one_by_one(sign):
    at_once = np.arange(131_073, dtype=np.uint32)
    seeds, one_by_one = [SEED, SEED[::-1], bytes(32)], at_once.copy()
    apply_mask(at_once, *seeds, sign=sign)
    for seed in seeds:
        apply_mask(one_by_one, seed, sign=sign)
    np.testing.assert_array_equal(at_once, one_by_one)
    apply_mask(at_once, sign=sign)
    np.testing.assert_array_equal(at_once, one_by_one)


def test_a_longer_mask_begins_with_a_shorter_one():
    np.testing.assert_array_equal(mask(200_000)[:70_000], mask(70_000))


def test_each_seed_has_its_own_mask():
    masks = {mask(8, seed).tobytes() for seed in (SEED, SEED[::-1], SEED + b"\x00", os.urandom(32))}
    assert len(masks) == 4


def test_an_empty_vector_stays_empty():
    assert mask(0).tolist() == []


KEY = bytes(range(32))


@pytest.mark.parametrize("plaintext", [b"", b"plaintext", bytes(100_000)])
def test_what_is_encrypted_is_decrypted(plaintext):
    ciphertext = encrypt_once(KEY, plaintext, b"context")
    assert len(ciphertext) == len(plaintext) + TAG_BYTES
    assert plaintext == b"" or plaintext not in ciphertext
    assert decrypt_once(KEY, ciphertext, b"context") == plaintext
    assert decrypt_once(KEY, memoryview(ciphertext), b"context") == plaintext
    assert encrypt_once(KEY, memoryview(plaintext), b"context") == ciphertext


def test_another_key_or_context_does_not_decrypt_it():
    ciphertext = encrypt_once(KEY, b"plaintext", b"context")
    for key, context in ((KEY, b"Context"), (KEY, b""), (KEY[::-1], b"context")):
        with pytest.raises(TransportError, match="changed, or encrypted for another occasion or under another key"):
            decrypt_once(key, ciphertext, context)


def test_every_changed_byte_and_every_other_length_is_refused():
    ciphertext = encrypt_once(KEY, b"plaintext", b"context")
    size = len(ciphertext)
    changed = [ciphertext[:place] + bytes([ciphertext[place] ^ 1]) + ciphertext[place + 1 :] for place in range(size)]
    for other in (*changed, *(ciphertext[:length] for length in range(size)), ciphertext + b"\0"):
        with pytest.raises(TransportError, match="changed"):
            decrypt_once(KEY, other, b"context")


def test_an_error_shows_nothing_of_the_key():
    with pytest.raises(TransportError) as caught:
        decrypt_once(KEY, bytes(16), b"")
    assert caught.value.__cause__ is None
    assert KEY.hex() not in str(caught.value)


BLOCK = symmetric._BLOCK


def cut(data, *places):
    ends = [0, *places, len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def decrypted(parts, *, context=b"context", check=lambda: None):
    return decrypt_parts(KEY, parts, sum(map(len, parts)), context, check=check)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5])
def test_parts_are_encrypted_and_decrypted_as_the_whole(size):
    plaintext = np.random.default_rng(size).bytes(size)
    whole = encrypt_once(KEY, plaintext, b"context")
    for places in ((), (size // 2,), (0, size // 3, size // 3, size), (size - 1,) if size else ()):
        assert encrypt_parts(KEY, cut(plaintext, *places), b"context") == whole
        assert encrypt_parts(KEY, cut(memoryview(plaintext), *places), b"context") == whole
        parts = cut(whole, *places)
        assert decrypted(parts) == plaintext
        assert decrypted(list(map(memoryview, parts))) == plaintext
    assert decrypted(cut(whole, *range(max(0, size - 40), size + TAG_BYTES))) == plaintext
    assert decrypted([whole]).readonly


def test_parts_that_were_changed_or_are_of_another_length_are_refused():
    ciphertext = encrypt_once(KEY, b"plaintext", b"context")
    size = len(ciphertext)
    changed = [ciphertext[:place] + bytes([ciphertext[place] ^ 1]) + ciphertext[place + 1 :] for place in range(size)]
    for other in (*changed, *(ciphertext[:length] for length in range(size)), ciphertext + b"\0" * 40):
        for parts in ([other], cut(other, len(other) // 2)):
            with pytest.raises(TransportError, match="changed"):
                decrypted(parts)
    with pytest.raises(TransportError, match="changed"):
        decrypted([ciphertext], context=b"another")
    for length in (size - 1, size + 1, 0):
        with pytest.raises(TransportError, match="changed"):
            decrypt_parts(KEY, [ciphertext], length, b"context", check=lambda: None)


def buffers(values):
    return [value for value in values.values() if isinstance(value, bytes | bytearray | memoryview)]


def test_what_is_refused_leaves_no_plaintext():
    seen = []

    def parts():
        seen.append("parts")
        yield encrypt_once(KEY, b"plaintext", b"context")
        seen.append("all")

    def check():
        seen.append("check")
        raise TransportError("not signed")

    with pytest.raises(TransportError, match="not signed") as refused:
        decrypt_parts(KEY, parts(), 25, b"context", check=check)
    assert seen == ["parts", "all", "check"]
    with pytest.raises(TransportError, match="changed") as changed:
        decrypt_parts(KEY, [encrypt_once(KEY, b"plaintext", b"context")], 25, b"another", check=lambda: None)
    for caught in (refused, changed):
        for entry in caught.traceback[1:]:  # the first is that of this test
            assert b"plaintext" not in b"".join(map(bytes, buffers(entry.frame.f_locals)))


def test_parts_take_the_memory_of_the_result():
    plaintext = bytes(16 * BLOCK)
    tracemalloc.start()
    try:
        ciphertext = encrypt_parts(KEY, [plaintext], b"context")
        _, encrypting = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        del plaintext
        parts = (ciphertext[start : start + BLOCK] for start in range(0, len(ciphertext), BLOCK))
        decrypt_parts(KEY, parts, len(ciphertext), b"context", check=lambda: None)
        _, decrypting = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert encrypting < 1.4 * len(ciphertext)
    assert decrypting < 2.4 * len(ciphertext)  # the ciphertext is one of these
