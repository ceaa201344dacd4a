import copy
import gc
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedtrain.privacy.noise import _STREAMS, Keystream, SecureSource, SeededSource, _forget_all
from fedtrain.seeding import seeded_generator

CPU = torch.device("cpu")
KEY = bytes(range(32))


@pytest.fixture
def known_key(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: KEY[:count])


def numbers(count):
    """The words of the known key, computed another way."""
    stream = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, dtype="<u8") & ((1 << 53) - 1)


def in_a_child(draw):
    """Return what a forked child draws."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, draw())
        finally:
            os._exit(0)  # never back into the test runner
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        drawn = pipe.read()
    os.waitpid(child, 0)
    return drawn


def words(stream):
    return stream.words(4).numpy().tobytes()


def test_words_are_the_keystream_of_aes_256_without_gaps(known_key):
    stream = Keystream()
    drawn = torch.cat([stream.words(count) for count in (1, 0, 2, 5)])
    assert drawn.tolist() == numbers(8).tolist()


def test_a_forgotten_key_is_replaced_by_one_of_the_system(known_key, monkeypatch):
    stream, other = Keystream(), Keystream()
    first = words(stream)
    assert first == words(other)
    monkeypatch.setattr(os, "urandom", bytes)
    _forget_all()
    second = words(stream)
    assert second == words(other) == words(Keystream()) != first


def test_every_stream_has_a_key_of_its_own():
    assert words(Keystream()) != words(Keystream())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_does_not_repeat_the_stream():
    stream = Keystream()
    before = words(stream)
    children = [in_a_child(lambda: words(stream)) for _ in range(2)]
    drawn = [before, words(stream), *children]
    assert [len(value) for value in drawn] == [32] * 4
    assert len(set(drawn)) == 4


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_does_repeat_a_stream_that_keeps_its_key():
    # Shows that the test above can fail.
    stream = Keystream()
    stream.words(1)
    _STREAMS.discard(stream)
    assert in_a_child(lambda: words(stream)) == words(stream)


def test_a_stream_cannot_be_copied_or_stored():
    source = SecureSource()
    source.bernoulli(1, 0.5)
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(source)


def test_streams_do_not_outlive_their_source():
    stream = Keystream()
    before = len(_STREAMS)
    del stream
    gc.collect()
    assert len(_STREAMS) < before


def test_gaussians_are_box_mullers_summed_over_four_pairs(known_key):
    drawn = SecureSource().gaussian((5,), std=3.0, device=CPU, dtype=torch.float64).numpy()
    first, second = numbers(24).astype(float).reshape(2, 4, 3)
    radius, angle = np.sqrt(-2 * np.log((first + 1) / 2**53)), 2 * np.pi * second / 2**53
    expected = np.concatenate([(radius * np.cos(angle)).sum(0), (radius * np.sin(angle)).sum(0)]) / 2 * 3
    np.testing.assert_allclose(drawn, expected[:5], rtol=1e-12)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_gaussians_are_finite_at_the_ends_of_the_uniforms(monkeypatch, byte):
    source = SecureSource()
    ends = torch.full((8,), int.from_bytes(bytes([byte]) * 8, "little") & ((1 << 53) - 1))
    monkeypatch.setattr(source._stream, "words", lambda count: ends.repeat(count // 8))
    drawn = source.gaussian((2,), std=1.0, device=CPU)
    assert bool(drawn.isfinite().all())
    assert float(drawn.abs().max()) <= 17.2


def test_chunks_of_a_large_result_do_not_repeat():
    drawn = SecureSource().gaussian((50_001,), std=1.0, device=CPU, dtype=torch.float64)
    assert len(drawn.unique()) == len(drawn)


def test_memory_is_that_of_the_result_and_a_chunk():
    source = SecureSource()
    tracemalloc.start()
    source.gaussian((500_000,), std=1.0, device=CPU)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The stream of the whole result would be 16 MB.
    assert peak < 2**21


def test_a_mask_never_has_more_than_its_rate(known_key):
    threshold = int(numbers(1)[0])
    assert not SecureSource().bernoulli(1, threshold / 2**53)[0]
    assert SecureSource().bernoulli(1, (threshold + 1) / 2**53)[0]
    # Below the resolution a record is never drawn, rather than too often.
    assert not SecureSource().bernoulli(1000, 2.0**-54).any()


def test_the_seeded_streams_are_torchs_by_the_labels_noise_and_sampling():
    source, noise, sampling = SeededSource(3), seeded_generator(3, "noise"), seeded_generator(3, "sampling")
    for shape in ((4, 5), (3,)):
        expected = torch.normal(mean=0, std=0.7, size=shape, generator=noise)
        assert torch.equal(source.gaussian(shape, std=0.7, device=CPU), expected)
        assert torch.equal(source.bernoulli(50, 0.3), torch.rand(50, generator=sampling, dtype=torch.float64) < 0.3)


def test_what_is_drawn_of_one_seeded_stream_does_not_change_the_other():
    one, two = SeededSource(3), SeededSource(3)
    one.bernoulli(7, 0.5)
    assert torch.equal(one.gaussian((9,), std=1.0, device=CPU), two.gaussian((9,), std=1.0, device=CPU))
    two.gaussian((2,), std=1.0, device=CPU)
    two.bernoulli(7, 0.5)
    assert torch.equal(one.bernoulli(40, 0.5), two.bernoulli(40, 0.5))


def test_another_seed_gives_another_stream():
    draws = [SeededSource(seed).gaussian((9,), std=1.0, device=CPU) for seed in (1, 2)]
    assert not torch.equal(*draws)
