"""Folders of images: one subfolder for each class, named after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedtrain.config import Data
from fedtrain.data.inputs import existing_folder
from fedtrain.data.sources.pixels import decode_images
from fedtrain.data.sources.types import Decoded
from fedtrain.data.types import ClassTarget, DataInfo, Image, Split
from fedtrain.errors import DataError

_SUFFIXES = {".png", ".jpg", ".jpeg"}


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


def decode(data: Data) -> Decoded:
    """Read the training folder, and the test folder where ``test_path`` is set.

    The classes are the names of the subfolders of the training folder, sorted; and where the experiment names the
    classes, after them those that the test folder alone has. Records are in the order of their class and file name.
    Hidden files are passed over, and so are files beside the subfolders.

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
    train = _list(existing_folder(data.path))
    classes = tuple(sorted({file.parent.name for file in train.files}))
    training = _split(train, classes, shape=None)
    shape = training.features.shape[1:]
    testing = None
    if data.test_path is not None:
        test = _list(existing_folder(data.test_path))
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
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(f"{root} holds no records: it has no subfolder for a class")
    files = []
    for folder in folders:
        images = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        if not images:
            raise DataError(f"{folder} holds no records: there is no image in it")
        for image in images:
            if image.suffix.lower() not in _SUFFIXES or not image.is_file():
                raise DataError(f"{image}: a folder of a class may hold only {', '.join(sorted(_SUFFIXES))} files")
        files += images
    return _Folder(root=root, files=tuple(files))


def _split(folder: _Folder, classes: tuple[str, ...], *, shape: tuple[int, ...] | None) -> Split:
    index = {name: label for label, name in enumerate(classes)}
    return Split(
        features=decode_images(folder.contents(), len(folder.files), place=folder.place, shape=shape),
        targets=np.array([index[file.parent.name] for file in folder.files], dtype=np.int64),
    )
