import copy
import gc
import os
import pickle
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedtrain.privacy.noise import _STREAMS, Keystream, SecureSource, SeededSource, _forget_all, _mixing
from fedtrain.seeding import seeded_generator
from tests.forks import in_a_child

CPU = torch.device("cpu")
KEY = bytes(range(32))


@pytest.fixture
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def known_key(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: KEY[:count])


def numbers(count, bits=53):
    """The words of the known key, computed another way."""
    stream = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, dtype="<u8") & np.uint64((1 << bits) - 1)


def words(stream):
    return stream.words(4).tobytes()


def test_words_are_the_keystream_of_aes_256_without_gaps(known_key):
    stream = Keystream()
    drawn = np.concatenate([stream.words(count) for count in (1, 0, 2, 5)])
    assert (drawn.dtype, drawn.tolist()) == (np.uint64, numbers(8, bits=64).tolist())


def test_integers_are_the_lower_53_bits_of_words(known_key):
    stream = Keystream()
    drawn = torch.cat([stream.integers(count) for count in (1, 0, 2, 5)])
    assert (drawn.dtype, drawn.tolist()) == (torch.int64, numbers(8).tolist())


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


def halves(count):
    """The halves of words of the known key, computed another way."""
    stream = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    return np.frombuffer(stream, dtype="<i4").astype(float)


def rows():
    """The rows that make 64 values of 69 Gaussians."""
    taken, given = (each.numpy() for each in _mixing())
    return np.eye(69)[5:] + given @ taken


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gaussians_are_box_mullers_mixed_by_the_rows(known_key, dtype, off):
    drawn = SecureSource().gaussian((5, 40), std=3.0, device=CPU, dtype=dtype).numpy()
    high, low, turn = halves(3 * 69 * 2).reshape(3, 69, 2)
    uniform = (high % 2**31) / 2**31 + (low % 2**31 + 0.5) / 2**62
    radius, angle = np.sqrt(-2 * np.log(uniform)), np.pi * turn / 2**31
    # Two blocks of cosines, then two of sines.
    expected = 3 * rows() @ np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    np.testing.assert_allclose(drawn.flatten(), expected.flatten()[:200], rtol=off, atol=off)


def test_small_values_in_single_precision_are_on_no_grid():
    # Sums in single precision of numbers around one would be multiples of 2^-25 or so.
    drawn = SecureSource().gaussian((1 << 18,), std=1.0, device=CPU).double()
    near = drawn[drawn.abs() < 2.0**-6]
    assert len(near) > 1000
    on_a_grid = (near * 2.0**25).frac() == 0
    # Of the numbers of single precision from 2^-7 to 2^-6, every 32nd is on it.
    assert float(on_a_grid.double().mean()) < 0.1


def test_the_rows_are_orthonormal_so_that_values_are_independent():
    np.testing.assert_allclose(rows() @ rows().T, np.eye(64), atol=1e-14)


def test_no_combination_of_a_block_depends_on_fewer_than_six_gaussians():
    # A combination without a part in all but five Gaussians is orthogonal to the kernel and has five values: there is
    # none, if any five columns of the kernel are independent.
    turns = 2 * np.pi * np.arange(69) / 69
    kernel = np.stack([np.ones(69), np.cos(turns), np.sin(turns), np.cos(2 * turns), np.sin(2 * turns)])
    np.testing.assert_allclose(rows() @ kernel.T, 0, atol=1e-13)
    # A turn of the circle keeps the volume, so that the first point is one of five.
    fives = np.array([(0, *others) for others in combinations(range(1, 69), 4)])
    volumes = np.abs(np.linalg.det(kernel[:, fives].transpose(1, 0, 2)))
    assert volumes.min() > 1e-9
    assert np.abs(rows()).min() > 0


def test_the_variance_is_right_to_a_thousandth(known_key):
    source, count = SecureSource(), 1 << 24
    moments = torch.zeros(4, dtype=torch.float64)
    for _ in range(32):
        drawn = source.gaussian((count // 32,), std=2.0, device=CPU, dtype=torch.float64) / 2
        square = drawn.square()
        moments += torch.stack([value.mean() for value in (drawn, square, drawn * square, square * square)]) / 32
    # By four of their own deviations, of which that of the variance is 0.035 %.
    allowed = 4 * torch.tensor([1.0, 2.0, 15.0, 96.0], dtype=torch.float64).div(count).sqrt()
    expected = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    assert bool(((moments - expected).abs() < allowed).all())
    # A deviation that is off by a thousandth would be seen.
    for planted in (1.001, 0.999):
        assert abs(float(planted**2 * moments[1]) - 1) > float(allowed[1])


def test_threads_draw_from_streams_of_their_own_and_nothing_twice(keep_threads):
    torch.set_num_threads(3)
    source = SecureSource()
    drawn = [source.gaussian((300_000,), std=1.0, device=CPU, dtype=torch.float64) for _ in range(2)]
    assert len(torch.cat(drawn).unique()) == 600_000
    assert abs(float(torch.cat(drawn).var()) - 1) < 6 * (2 / 600_000) ** 0.5
    chunks = torch.stack(drawn[0][: 9 * 2**15].split(2**15))
    correlation = torch.corrcoef(chunks) - torch.eye(9, dtype=torch.float64)
    assert float(correlation.abs().max()) < 6 / 2**7.5
    keys = {words(stream) for stream in (source._stream, *source._others)}
    assert len(keys) == 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_repeats_no_stream_of_a_thread(keep_threads):
    torch.set_num_threads(2)
    source = SecureSource()
    source.gaussian((1 << 17,), std=1.0, device=CPU)
    other = source._others[0]
    assert in_a_child(lambda: words(other)) != words(other)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_gaussians_at_the_ends_of_the_uniforms_are_as_far_out_as_is_said(monkeypatch, dtype, off):
    """Every radius is at one of its ends, where single precision and 31 bits could end it at 6.7 deviations."""
    generator, source = np.random.default_rng(5), SecureSource()
    ends = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1]
    made = generator.choice(ends, size=(3, 69, 1))
    monkeypatch.setattr(source._stream, "halves", lambda _: torch.from_numpy(made.flatten()).to(torch.int32))
    drawn = source.gaussian((128,), std=1.0, device=CPU, dtype=dtype).numpy()
    high, low, turn = made
    radius = np.sqrt(-2 * np.log((high % 2**31) / 2**31 + (low % 2**31 + 0.5) / 2**62))
    angle = np.pi * turn / 2**31
    expected = rows() @ np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    np.testing.assert_allclose(drawn, expected.flatten(), rtol=off, atol=off)
    assert radius.max() > 9.3


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
