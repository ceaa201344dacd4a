import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch

from fedtrain.data import ClassTarget, Columns, DataInfo, Image
from fedtrain.encoders.scattering import MAPS, Scattering, ScatteringEncoder, scattering_encoder
from fedtrain.errors import TaskError

VECTORS = Path(__file__).parents[2] / "vectors" / "scattering.json"


def image_of_the_vectors():
    row, column = np.mgrid[:32, :32]
    disc = np.hypot(row - 12, column - 18) < 7
    return ((7 * row + 13 * column + row * column) % 17 / 16 + disc) / 2


def scattered(image, dtype=torch.float64):
    return Scattering(*image.shape, dtype=dtype)(torch.from_numpy(image).to(dtype)[None, None])[0].numpy()


def convolved(signal, filter_at, step=1):
    """Convolve by the definition, pixel by pixel, with a filter that is given as a function of the offset."""
    height, width = signal.shape
    far = 16  # where every filter is below 1e-12
    rows, columns = np.mgrid[-far : far + 1, -far : far + 1]
    values = filter_at(rows, columns)
    found = np.empty((-(-height // step), -(-width // step)), dtype=values.dtype)
    for row in range(0, height, step):
        for column in range(0, width, step):
            taken = signal[(row - rows) % height, (column - columns) % width]
            found[row // step, column // step] = (taken * values).sum()
    return found


def wavelet(scale, angle):
    """Return the wavelet of the module's formula as a function of the offset."""
    deviation, frequency, turn = 0.8 * 2**scale, 3 * math.pi / 4 / 2**scale, math.pi * angle / 8

    def parts(rows, columns):
        along = columns * math.cos(turn) + rows * math.sin(turn)
        across = rows * math.cos(turn) - columns * math.sin(turn)
        envelope = np.exp(-(along**2 + across**2 / 4) / (2 * deviation**2)) / (4 * math.pi * deviation**2)
        return envelope, envelope * np.exp(1j * frequency * along)

    envelope, wave = parts(*np.mgrid[-40:41, -40:41])
    constant = wave.sum() / envelope.sum()

    def values(rows, columns):
        found, waves = parts(rows, columns)
        return waves - constant * found

    return values


def blur(step):
    """Return phi on every so many pixels, with sum 1, as a function of the offset in such steps."""

    def gauss(rows, columns):
        return np.exp(-((rows * step) ** 2 + (columns * step) ** 2) / (2 * 1.6**2))

    total = gauss(*np.mgrid[-40:41, -40:41]).sum()
    return lambda rows, columns: gauss(rows, columns) / total


def interior(maps):
    """Cut off what lies in the continued border."""
    return maps[1:-1, 1:-1]


@pytest.mark.parametrize("shape", [(8, 8), (12, 8)])
def test_each_map_is_what_the_definition_gives_pixel_by_pixel(shape):
    image = np.random.default_rng(0).random(shape)
    whole = np.pad(image, 4, mode="reflect")
    expected = [interior(convolved(whole, blur(1), 4))]
    fine = [np.abs(convolved(whole, wavelet(0, angle))) for angle in range(8)]
    coarse = [np.abs(convolved(whole, wavelet(1, angle), 2)) for angle in range(8)]
    expected += [interior(convolved(values, blur(1), 4)) for values in fine]
    expected += [interior(convolved(values, blur(2), 2)) for values in coarse]
    for values in fine:
        for angle in range(8):
            mixed = np.abs(convolved(values, wavelet(1, angle), 2))
            expected.append(interior(convolved(mixed, blur(2), 2)))
    np.testing.assert_allclose(scattered(image), np.stack(expected), atol=2e-7)


def test_the_maps_are_those_of_another_implementation():
    vectors = json.loads(VECTORS.read_text())
    maps = scattered(image_of_the_vectors())
    # Its angles count the other way round and begin at another one.
    turned = [(angle - 1) % 8 for angle in range(8)]
    order = [0, *(1 + 8 * scale + angle for scale in (0, 1) for angle in turned)]
    order += [17 + 8 * first + second for first in turned for second in turned]
    # It cuts the spectrum of phi off where maps have every second pixel, so that those of scale 1 differ a little.
    off = [(slice(0, 9), 1e-3), (slice(9, 17), 2e-2), (slice(17, 81), 2e-2)]
    for (row, column), values in zip(vectors["cells"], vectors["values"], strict=True):
        expected, found = np.array(values)[order], maps[:, row, column]
        assert len(expected) == MAPS
        for group, bound in off:
            difference = np.linalg.norm(found[group] - expected[group]) / np.linalg.norm(expected[group])
            assert difference < bound


def test_an_image_that_is_moved_by_four_pixels_has_maps_that_are_moved_by_one():
    wide = np.random.default_rng(1).random((32, 64))
    one, other = scattered(wide[:, :48]), scattered(wide[:, 4:52])
    # Away from the borders, which are continued otherwise.
    np.testing.assert_allclose(one[:, 3:-3, 5:-4], other[:, 3:-3, 4:-5], atol=1e-4)


def test_a_small_deformation_changes_the_maps_less_than_the_pixels():
    row, column = np.mgrid[:32, :32]
    one, other = (0.5 + 0.5 * np.sin(column * 1.5 + shift) * np.cos(row * 0.7) for shift in (0.0, 0.7))
    pixels = np.linalg.norm(one - other) / np.linalg.norm(one - one.mean())
    first, second = scattered(one)[1:], scattered(other)[1:]
    assert np.linalg.norm(first - second) / np.linalg.norm(first) < pixels / 5


def test_a_flat_image_has_no_maps_but_that_of_order_0():
    maps = scattered(np.full((16, 16), 0.25))
    np.testing.assert_allclose(maps[0], 0.25)
    assert np.abs(maps[1:]).max() < 1e-6


def test_maps_scale_with_the_image_and_carry_no_more_energy():
    image = np.random.default_rng(2).random((32, 32))
    maps = scattered(image)
    np.testing.assert_allclose(scattered(3 * image), 3 * maps, rtol=1e-10)
    assert 16 * (maps**2).sum() < (np.pad(image, 4, mode="reflect") ** 2).sum()


def test_single_and_double_precision_agree():
    image = np.random.default_rng(3).random((32, 32))
    np.testing.assert_allclose(scattered(image, torch.float32), scattered(image), atol=2e-6)


def test_channels_are_scattered_each_by_itself():
    colours = np.random.default_rng(4).random((3, 16, 16))
    together = Scattering(16, 16, dtype=torch.float64)(torch.from_numpy(colours)[None])[0].numpy()
    np.testing.assert_allclose(together, np.concatenate([scattered(colour) for colour in colours]), atol=1e-12)


@pytest.mark.parametrize(("sides", "cells"), [((8, 8), (2, 2)), ((28, 28), (7, 7)), ((30, 33), (8, 9))])
def test_there_is_a_cell_for_every_four_pixels(sides, cells):
    features = ScatteringEncoder(*sides)(torch.zeros((2, 1, *sides), dtype=torch.uint8))
    assert features.shape == (2, MAPS, *cells)


def test_every_image_has_features_of_norm_1_of_its_own_alone():
    images = torch.from_numpy(np.random.default_rng(5).integers(256, size=(5, 3, 32, 32), dtype=np.uint8))
    encoder = ScatteringEncoder(32, 32)
    together = encoder(images)
    torch.testing.assert_close(together.flatten(1).norm(dim=1), torch.ones(5))
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)


def test_the_constants_are_those_of_noise():
    draw = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    amplitudes = np.divide(1, frequencies, out=np.zeros_like(frequencies), where=frequencies > 0)
    noise = np.fft.ifft2(np.fft.fft2(draw.standard_normal((128, 64, 64))) * amplitudes).real[:, None, :32, :32]
    images = torch.from_numpy(np.clip(0.5 + noise / noise.std() / 8, 0, 1)).to(torch.float32)
    maps = torch.cat([Scattering(32, 32)(part) for part in images.split(16)])
    maps[:, 1:] = maps[:, 1:].sqrt()
    encoder = ScatteringEncoder(32, 32)
    torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), encoder.means.flatten(), rtol=0.06, atol=0)
    torch.testing.assert_close(maps[:, 0].std(), encoder.scales[0, 0, 0], rtol=0.06, atol=0)


def test_maps_are_sharpened_by_their_cosine_transform():
    encoder = ScatteringEncoder(32, 24)
    wave = scipy.fft.idctn(np.eye(48)[17].reshape(8, 6), norm="ortho")  # frequencies 2 and 5
    rows, columns = encoder.rows.numpy(), encoder.columns.numpy()
    found = rows @ wave @ columns.T * encoder.weights.numpy()
    np.testing.assert_allclose(found, np.eye(48)[17].reshape(8, 6) * 30**0.25, atol=1e-6)


def test_what_is_no_image_or_too_small_is_refused():
    target = ClassTarget(names=("a", "b"))
    with pytest.raises(TaskError, match="images of 8 by 8 pixels and more"):
        scattering_encoder(DataInfo(features=Columns(shape=(3,)), target=target))
    with pytest.raises(TaskError, match="and this data set is of kind image and shape"):
        scattering_encoder(DataInfo(features=Image(shape=(1, 8, 7)), target=target))
    with pytest.raises(ValueError, match="a side is 8 or more"):
        Scattering(32, 4)
