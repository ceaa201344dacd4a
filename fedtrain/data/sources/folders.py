"""Folders of images or sounds, with one subfolder for each class.

The classes are the names of the subfolders of the training folder, sorted; and where the experiment names the classes,
after them those that the test folder alone has. Records are in the order of their class and file name. Hidden files and
folders are passed over, those that Windows, macOS and network storage leave beside others (``Thumbs.db``,
``__MACOSX``), and files beside the subfolders.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.sources.base import Decoded, existing, is_passed_over
from fedtrain.data.sources.images import decode_images
from fedtrain.data.sources.sounds import SoundForm, decode_sounds
from fedtrain.data.types import ClassTarget, DataInfo, Features, Image, Labels, Split
from fedtrain.errors import DataError

_SUFFIXES: Final = {"image": frozenset({".png", ".jpg", ".jpeg"}), "sound": frozenset({".wav", ".flac"})}

_Shape = tuple[int, ...]


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


_Decode = Callable[[_Folder, _Shape | None], tuple[NDArray[np.uint8] | NDArray[np.float32], Labels | None]]
"""From a folder, and the shape of the training records where there are some, to features and lengths."""


def decode_image_folders(data: Data) -> Decoded:
    """Read the training folder of images, and the test folder where ``test_path`` is set.

    Images are decoded as by the datasets library: turned as their EXIF orientation says, and a transparent colour of a
    PNG is a colour.

    Raises:
        DataError: a folder or image is missing or malformed, or the test folder has a class of its own that the
            experiment does not name.
    """

    def decode(folder: _Folder, shape: _Shape | None) -> tuple[NDArray[np.uint8], None]:
        return decode_images(folder.contents(), len(folder.files), place=folder.place, shape=shape), None

    return _decoded(data, "image", decode, lambda shape: Image(shape=shape))


def decode_sound_folders(data: Data) -> Decoded:
    """Read the training folder of sounds, and the test folder where ``test_path`` is set.

    Raises:
        DataError: a folder or sound is missing or malformed, or the test folder has a class of its own that the
            experiment does not name.
    """
    form = SoundForm.of(data)

    def decode(folder: _Folder, _: _Shape | None) -> tuple[NDArray[np.float32], Labels]:
        return decode_sounds(folder.contents(), len(folder.files), form=form, place=folder.place)

    return _decoded(data, "sound", decode, lambda _: form.features)


def _decoded(
    data: Data, what: Literal["image", "sound"], decode: _Decode, features: Callable[[_Shape], Features]
) -> Decoded:
    assert data.path is not None  # Data is validated
    if data.partition.column is not None:
        raise DataError(
            f"partition.column = {data.partition.column!r}: a folder of {what}s does not name owners; "
            "choose another kind of partition and leave the column unset"
        )
    train = _list(existing(data.path, "folder"), what)
    classes = tuple(sorted({file.parent.name for file in train.files}))
    training = _split(train, classes, decode, shape=None)
    shape = training.features.shape[1:]
    testing = None
    if data.test_path is not None:
        test = _list(existing(data.test_path, "folder"), what)
        if test.root.resolve() == train.root.resolve():
            raise DataError(f"{test.root} is both training and test data; give path and test_path different folders")
        unknown = sorted({file.parent.name for file in test.files} - set(classes))
        if unknown and data.classes is None:
            raise DataError(
                f"{test.root / unknown[0]}: class {unknown[0]!r} is not in the training data, whose classes are: "
                f"{', '.join(classes)}"
            )
        classes = (*classes, *unknown)
        testing = _split(test, classes, decode, shape=shape)
    info = DataInfo(features=features(shape), target=ClassTarget(names=classes))
    return Decoded(info=info, train=training, test=testing)


def _list(root: Path, what: Literal["image", "sound"]) -> _Folder:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_passed_over(entry.name))
    if not folders:
        raise DataError(f"{root} holds no records: it has no subfolder for a class")
    files = []
    for folder in folders:
        found = sorted(entry for entry in folder.iterdir() if not is_passed_over(entry.name))
        if not found:
            raise DataError(f"{folder} holds no records: there is no {what} in it")
        for file in found:
            if file.suffix.lower() not in _SUFFIXES[what] or not file.is_file():
                allowed = ", ".join(sorted(_SUFFIXES[what]))
                raise DataError(f"{file}: a folder of a class may hold only {allowed} files")
        files += found
    return _Folder(root=root, files=tuple(files))


def _split(folder: _Folder, classes: tuple[str, ...], decode: _Decode, *, shape: _Shape | None) -> Split:
    index = {name: label for label, name in enumerate(classes)}
    features, lengths = decode(folder, shape)
    targets = np.array([index[file.parent.name] for file in folder.files], dtype=np.int64)
    return Split(features=features, targets=targets, lengths=lengths)
