"""Images in PNG or JPEG, decoded to pixels."""

from collections.abc import Iterable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps
from PIL.ExifTags import Base

from fedtrain.data.sources.base import Place
from fedtrain.data.sources.sounds import is_sound
from fedtrain.errors import DataError
from fedtrain.progress import working

_CHANNELS = {"L": 1, "RGB": 3}
_MODES = {1: "grey", 3: "RGB"}


def decode_images(
    encoded: Iterable[bytes], count: int, *, place: Place, shape: tuple[int, ...] | None = None
) -> NDArray[np.uint8]:
    """Decode images.

    Args:
        encoded: the files' contents, PNG or JPEG, grey or RGB with 8 bits a channel.
        count: how many there are, at least one.
        place: names a row in errors.
        shape: (channels, height, width) that each must have; unset: that of the first.

    Returns:
        Pixels, shape (count, channels, height, width).

    Raises:
        DataError: an image cannot be read, or differs in size or mode.
    """
    pixels: NDArray[np.uint8] | None = None
    with working("decoding images", count) as done:
        for row, content in enumerate(encoded):
            image = _decode(content, row, place)
            found = (_CHANNELS[image.mode], image.height, image.width)
            if shape is None:
                shape = found
            if found != shape:
                raise DataError(
                    f"{place(row)}: the image is {_words(found)}, but the first training image is {_words(shape)}; "
                    "all images must share one size and mode"
                )
            if pixels is None:
                pixels = np.empty((count, *shape), dtype=np.uint8)
            pixels[row] = np.asarray(image).reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1)
            done(row + 1)
    assert pixels is not None  # the caller has refused an empty set
    return pixels


def _decode(content: bytes, row: int, place: Place) -> Picture.Image:
    try:
        image: Picture.Image = Picture.open(BytesIO(content), formats=("PNG", "JPEG"))
        mode = image.mode
        if mode in _CHANNELS:
            image.load()
            if image.getexif().get(Base.Orientation) is not None:
                image = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged files make Pillow raise errors of many types
        hint = "; it is a sound: set sample_rate and seconds" if is_sound(content) else ""
        raise DataError(f"{place(row)}: the image cannot be read as PNG or JPEG: {error}{hint}") from error
    if mode not in _CHANNELS:
        raise DataError(f"{place(row)}: the image has mode {mode!r}; allowed: 8-bit grey ('L') and 'RGB'; convert it")
    return image


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} {_MODES[shape[0]]}"
