import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from fedtrain.crypto import apply_mask, derive

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
