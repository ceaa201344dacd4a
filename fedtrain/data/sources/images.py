"""Images in PNG or JPEG: folders with one subfolder for each class, and the pixels of any images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps
from PIL.ExifTags import Base

from fedtrain.config import Data
from fedtrain.data.sources.base import Decoded, Place, existing
from fedtrain.data.types import ClassTarget, DataInfo, Image, Split
from fedtrain.errors import DataError
from fedtrain.progress import working

_CHANNELS = {"L": 1, "RGB": 3}
_MODES = {1: "grey", 3: "RGB"}
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}


@dataclass(frozen=True, kw_only=True)
class _Folder:
    root: Path
    files: tuple[Path, ...]

    def place(self, row: int) -> str:
        return str(self.files[row])

    def contents(self) -> Iterator[bytes]:
        for file in self.files:
            try:
                yield file.read_bytes()
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error}") from error


def decode_folders(data: Data) -> Decoded:
    """Read the training folder, and the test folder where ``test_path`` is set.

    The classes are the names of the subfolders of the training folder, sorted; and where the experiment names the
    classes, after them those that the test folder alone has. Records are in the order of their class and file name.
    Hidden files and folders are passed over, those that Windows, macOS and network storage leave beside others
    (``Thumbs.db``, ``__MACOSX``), and files beside the subfolders. Images are decoded as by the datasets library:
    turned as their EXIF orientation says, and a transparent colour of a PNG is a colour.

    Raises:
        DataError: a folder or image is missing or malformed, or the test folder has a class of its own that the
            experiment does not name.
    """
    assert data.path is not None  # Data is validated
    if data.partition.column is not None:
        raise DataError(
            f"partition.column = {data.partition.column!r}: a folder of images does not name owners; "
            "choose another kind of partition and leave the column unset"
        )
    train = _list(existing(data.path, "folder"))
    classes = tuple(sorted({file.parent.name for file in train.files}))
    training = _split(train, classes, shape=None)
    shape = training.features.shape[1:]
    testing = None
    if data.test_path is not None:
        test = _list(existing(data.test_path, "folder"))
        if test.root.resolve() == train.root.resolve():
            raise DataError(f"{test.root} is both training and test data; give path and test_path different folders")
        unknown = sorted({file.parent.name for file in test.files} - set(classes))
        if unknown and data.classes is None:
            raise DataError(
                f"{test.root / unknown[0]}: class {unknown[0]!r} is not in the training data, whose classes are: "
                f"{', '.join(classes)}"
            )
        classes = (*classes, *unknown)
        testing = _split(test, classes, shape=shape)
    info = DataInfo(features=Image(shape=shape), target=ClassTarget(names=classes))
    return Decoded(info=info, train=training, test=testing)


def _list(root: Path) -> _Folder:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _is_passed_over(entry))
    if not folders:
        raise DataError(f"{root} holds no records: it has no subfolder for a class")
    files = []
    for folder in folders:
        images = sorted(entry for entry in folder.iterdir() if not _is_passed_over(entry))
        if not images:
            raise DataError(f"{folder} holds no records: there is no image in it")
        for image in images:
            if image.suffix.lower() not in _SUFFIXES or not image.is_file():
                raise DataError(f"{image}: a folder of a class may hold only {', '.join(sorted(_SUFFIXES))} files")
        files += images
    return _Folder(root=root, files=tuple(files))


def _is_passed_over(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS


def _split(folder: _Folder, classes: tuple[str, ...], *, shape: tuple[int, ...] | None) -> Split:
    index = {name: label for label, name in enumerate(classes)}
    return Split(
        features=decode_images(folder.contents(), len(folder.files), place=folder.place, shape=shape),
        targets=np.array([index[file.parent.name] for file in folder.files], dtype=np.int64),
    )


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
        raise DataError(f"{place(row)}: the image cannot be read as PNG or JPEG: {error}") from error
    if mode not in _CHANNELS:
        raise DataError(f"{place(row)}: the image has mode {mode!r}; allowed: 8-bit grey ('L') and 'RGB'; convert it")
    return image


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} {_MODES[shape[0]]}"
