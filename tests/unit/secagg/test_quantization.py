import tracemalloc

import numpy as np
import pytest

from fedtrain.secagg.quantization import add_packed, extend_sign, pack

LENGTHS = [1, 2, 65_535, 65_536, 65_537, 200_001]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_sum_of_packed_words_is_the_sum_modulo_their_width(length, width):
    random = np.random.default_rng(length)
    vectors = [random.integers(0, 2**32, length, dtype=np.uint32) for _ in range(3)]
    total = np.zeros(length, dtype=np.uint32)
    for vector in vectors:
        packed = pack(vector, width)
        assert packed.dtype == np.uint8
        assert packed.shape == (length * width,)
        add_packed(total, packed, width)
    modulus = 2 ** (8 * width)
    expected = np.sum(vectors, axis=0, dtype=np.uint64) % modulus
    np.testing.assert_array_equal(total % modulus if width < 4 else total, expected)


def test_bytes_are_lowest_first():
    assert pack(np.array([0x01020304, 0xFFFFFFFE], dtype=np.uint32), 3).tolist() == [4, 3, 2, 0xFE, 0xFF, 0xFF]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_signs_are_extended_from_the_width(width):
    most = 2 ** (8 * width - 1) - 1
    expected = np.array([0, 1, -1, most, -most - 1], dtype=np.int32)
    noise = np.uint32(0xABCDEF12) << np.uint32(8 * width) if width < 4 else np.uint32(0)
    low = expected.view(np.uint32) & np.uint32(2 ** (8 * width) - 1)
    total = low | noise
    extend_sign(total, width)
    np.testing.assert_array_equal(total.view(np.int32), expected)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_words_are_packed_in_parts_as_they_are_whole(length, width):
    words = np.random.default_rng(length).integers(0, 2**32, length, dtype=np.uint32)
    before = words.copy()
    packed = pack(words, width)
    whole = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    assert packed.tobytes() == whole
    assert type(packed.base) is bytes
    np.testing.assert_array_equal(words, before)


def test_packed_words_are_written_once():
    words = np.ones(1 << 22, np.uint32)
    tracemalloc.start()
    try:
        packed = pack(words, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * packed.nbytes
