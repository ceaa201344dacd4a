"""From stored features to a model's inputs, by constants that everyone knows."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4

Encoding = Callable[[Tensor, torch.Generator | None], Tensor]
"""From stored features (n, *shape) to inputs, float32; with a generator for training, without one for evaluation."""


def encode_columns(features: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001 -- an `Encoding`
    """Return the features of a table, float32 of shape (n, features), as they are.

    They are not standardised, because means and deviations are statistics of private records. Bring columns to
    similar ranges with constants that are public before training.
    """
    return features


def encode_pixels(features: Tensor, generator: torch.Generator | None) -> Tensor:  # noqa: ARG001 -- an `Encoding`
    """Turn pixels, uint8 of shape (n, channels, height, width), into float32 in [-1, 1] of the same shape.

    Pixels are divided by 127.5 and reduced by 1: constants that everyone knows. The usual means and deviations of
    the training images are statistics of private records, which would be published with the model and which no
    privacy budget pays for.
    """
    return features.to(torch.float32) / 127.5 - 1


def augment_pixels(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Encode as `encode_pixels`, and with a generator move and mirror each image at random.

    Each image is cropped from itself with a border of 4 zeros, and mirrored left to right with probability 1/2 (He et
    al. 2016, section 4.2). Zero after the normalisation is the middle grey, 127.5, before it. The draws come from the
    generator alone, and are the same for the same state of it, wherever the images are. Mirroring suits photographs;
    it destroys digits and letters.
    """
    images = encode_pixels(features, generator)
    return images if generator is None else _crop_and_mirror(images, generator)


def _crop_and_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``PADDING`` pixels each way, and mirror half of them."""
    n, channels, height, width = images.shape
    top, left = torch.randint(2 * PADDING + 1, (2, n, 1), generator=generator, device=generator.device)
    mirror = torch.randint(2, (n, 1), generator=generator, device=generator.device) == 1
    across = torch.arange(width, device=generator.device)
    rows = top + torch.arange(height, device=generator.device)
    columns = left + torch.where(mirror, across.flip(0), across)
    # One gather over flattened pixels is two to three times as fast as indexing rows and columns.
    pixels = (rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]).to(images.device)
    padded = functional.pad(images, (PADDING, PADDING, PADDING, PADDING)).flatten(2)
    return padded.gather(2, pixels.flatten(1)[:, None].expand(n, channels, -1)).reshape(images.shape)
