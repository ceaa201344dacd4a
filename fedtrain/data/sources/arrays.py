"""Arrays in memory, in NumPy archives, and the digits of the demo, which are such an archive.

An archive has arrays ``x`` and ``y`` in ``path``, and the same in ``test_path``.

One archive can hold both sets as ``x_train``, ``y_train``, ``x_test`` and ``y_test``: name it as ``path`` and as
``test_path``. Owners are an array named by ``partition.column``, in such an archive with ``_train`` after it.
"""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtrain.config import Data
from fedtrain.data.sources.base import Decoded, existing, require_records
from fedtrain.data.sources.columns import (
    Coded,
    label_categories,
    with_test_labels,
    without_negative_zero,
    zeros_and_ones,
)
from fedtrain.data.types import (
    ClassTarget,
    Columns,
    DataInfo,
    Image,
    LabelsTarget,
    NumberTarget,
    Split,
    Target,
    TargetKind,
)
from fedtrain.errors import DataError
from fedtrain.progress import working

_DIGITS = tuple("0123456789")
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for an archive that it cannot read."""


@dataclass(frozen=True, kw_only=True)
class _Arrays:
    """The arrays of one set of records; ``names`` tells x, y and owner apart in errors."""

    file: Path
    suffix: str
    x: NDArray[Any]
    y: NDArray[Any]
    owner: NDArray[Any] | None

    def place(self, row: int) -> str:
        return f"{self.file}, y{self.suffix}, row {row}"


def decode_npz(data: Data) -> Decoded:
    """Read training arrays, and test arrays where ``test_path`` is set.

    ``x`` is uint8 pixels of shape (n, height, width), (n, height, width, channels) or, where only that gives 1 or 3
    channels, (n, channels, height, width); or numbers of shape (n, features). ``y`` is of the kind of ``data.target``:

    - classes: shape (n,), integers of 0 or more, or strings. The classes are the different values in the training
      labels, sorted; and where the experiment names the classes, after them those that the test labels alone have;
    - numbers: shape (n,), finite as float32;
    - labels: shape (n, labels), booleans, or 0 and 1. They are named by the experiment, or numbered from 0.

    Raises:
        DataError: an array is missing or malformed, or the test arrays do not match the training arrays.
    """
    assert data.path is not None  # Data is validated
    train = _load(existing(data.path), "_train", owner=data.partition.column)
    test = _load(existing(data.test_path), "_test", owner=None) if data.test_path else None
    if test is not None and test.file.resolve() == train.file.resolve() and test.suffix == train.suffix:
        raise DataError(f"{test.file} is both training and test data; give path and test_path different files")
    return _decoded(train, test, owner=data.partition.column, target=data.target, names=data.class_names)


def decode_arrays(
    name: str,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    test: tuple[str, NDArray[Any], NDArray[Any]] | None = None,
    target: TargetKind = "class",
    names: tuple[str, ...] | None = None,
) -> Decoded:
    """Read records that are arrays in memory, as `decode_npz` does those of an archive without owners.

    Args:
        name: what they are called in errors.
        x: features.
        y: targets.
        test: test records, if there are any: the same three.
        target: what they are.
        names: the classes or labels, where the experiment names them.

    Raises:
        DataError: they are malformed.
    """
    arrays = _Arrays(file=Path(name), suffix="", x=x, y=y, owner=None)
    testing = None if test is None else _Arrays(file=Path(test[0]), suffix="", x=test[1], y=test[2], owner=None)
    return _decoded(arrays, testing, owner=None, target=target, names=names)


def refuse_training_records(file: Path) -> None:
    """Refuse an archive of training and test records where test records alone are read.

    Raises:
        DataError: it is one, or cannot be read.
    """
    if _load(file, "_train", owner=None).suffix:
        raise DataError(
            f"{file} holds training records, x_train; in a deployment the server has test records alone: save them as "
            "x and y of an archive of their own"
        )


def _decoded(
    train: _Arrays, test: _Arrays | None, *, owner: str | None, target: TargetKind, names: tuple[str, ...] | None
) -> Decoded:
    features = _features(train)
    described, targets = _target(train, test, target, names)
    owners, named = None, tuple[Any, ...]()
    if train.owner is not None:
        coded = _coded(train, train.owner, f"{owner}{train.suffix}")
        named = coded.categories()
        owners = coded.encode(named, what="owner", place=train.place)
    info = DataInfo(
        features=(Image if features.ndim > 2 else Columns)(shape=features.shape[1:]),  # noqa: PLR2004  # (n, features)
        target=described,
    )
    return Decoded(
        info=info,
        train=Split(features=features, targets=targets(train), owners=owners),
        test=_test_split(test, info, targets) if test else None,
        owners=tuple(map(str, named)),
    )


def _target(
    train: _Arrays, test: _Arrays | None, kind: TargetKind, names: tuple[str, ...] | None
) -> tuple[Target, Callable[[_Arrays], NDArray[Any]]]:
    """Return what the targets are, and how they are read from arrays."""
    match kind:
        case "number":
            return NumberTarget(), _numbers
        case "labels":
            found = train.y.shape[1] if train.y.ndim == 2 else 0  # noqa: PLR2004  # (n, labels)
            target = LabelsTarget(names=names or tuple(map(str, range(found))))
            return target, lambda arrays: _label_sets(arrays, target.names)
        case "text":
            raise DataError(
                f'{train.file}: data.target = "text" is for records that are texts, and arrays hold none; write them '
                "into a column of a Parquet file, or give a DataStore whose features are texts"
            )
        case "class":
            categories = label_categories(_labels(train), place=train.place)
            if names is not None and test:
                categories = with_test_labels(categories, _labels(test), place=test.place)
            return ClassTarget(names=tuple(str(category) for category in categories)), lambda arrays: _labels(
                arrays
            ).encode(categories, what="label", place=arrays.place)


def _numbers(arrays: _Arrays) -> NDArray[np.float32]:
    y, name = arrays.y, f"{arrays.file}: y{arrays.suffix}"
    if y.shape != (len(arrays.x),) or y.dtype.kind not in "fiu":
        raise DataError(
            f"{name} has shape {y.shape} and dtype {y.dtype}; allowed: numbers of shape ({len(arrays.x)},), one for "
            f"each record of x{arrays.suffix}"
        )
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        numbers = y.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise DataError(f"{arrays.place(int(bad[0]))}: {y[bad[0]]} is not a finite 32-bit number")
    return without_negative_zero(numbers)


def _label_sets(arrays: _Arrays, names: tuple[str, ...]) -> NDArray[np.uint8]:
    y, name = arrays.y, f"{arrays.file}: y{arrays.suffix}"
    if y.shape != (len(arrays.x), len(names)) or y.dtype.kind not in "iub":
        raise DataError(
            f"{name} has shape {y.shape} and dtype {y.dtype}; allowed: booleans, or integers 0 and 1, of shape "
            f"({len(arrays.x)}, labels): a row for each record of x{arrays.suffix}, a column for each label "
            f"({', '.join(names) or 'data.classes names them'})"
        )
    return zeros_and_ones(y, lambda index: f"{arrays.place(index[0])}, column {index[1]}")


def _test_split(test: _Arrays, info: DataInfo, targets: Callable[[_Arrays], NDArray[Any]]) -> Split:
    features = _features(test)
    if features.shape[1:] != info.shape:
        raise DataError(
            f"{test.file}: x{test.suffix} holds records of shape {features.shape[1:]}, but the training records have "
            f"shape {info.shape}"
        )
    return Split(features=features, targets=targets(test))


def _load(file: Path, suffix: str, *, owner: str | None) -> _Arrays:
    with working(f"reading {file}"):
        return _load_archive(file, suffix, owner=owner)


def _load_archive(file: Path, suffix: str, *, owner: str | None) -> _Arrays:
    try:
        archive = np.load(file, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{file}: cannot be read as a NumPy archive (.npz): {error}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{file}: is a single array; a NumPy archive (.npz) with x and y is needed")
    with archive:
        used = suffix if f"x{suffix}" in archive.files else ""

        def array(name: str) -> NDArray[Any]:
            name += used
            if name not in archive.files:
                known = ", ".join(archive.files)
                raise DataError(f"{file}: there is no array {name!r}; the archive holds: {known}")
            try:
                return np.asarray(archive[name])
            except UNREADABLE as error:  # also an array of Python objects, which would need pickle
                raise DataError(f"{file}: {name} cannot be read: {error}; save it as numbers or strings") from error

        return _Arrays(file=file, suffix=used, x=array("x"), y=array("y"), owner=array(owner) if owner else None)


def _features(arrays: _Arrays) -> NDArray[np.uint8] | NDArray[np.float32]:
    return features_of(arrays.x, f"{arrays.file}: x{arrays.suffix}")


def features_of(x: NDArray[Any], name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Return the features of records that are an array, as `decode_npz` reads ``x``.

    Args:
        x: one row for each record.
        name: what it is called in errors.

    Raises:
        DataError: it holds no records, or is neither pixels nor finite numbers.
    """
    require_records(x.shape[0] if x.ndim else 0, name)
    if 0 in x.shape:
        raise DataError(f"{name} has shape {x.shape}: its records hold no value")
    # In C order, as what is cached: PyTorch computes otherwise on what is laid out otherwise, and rounds differently.
    if x.dtype == np.uint8 and x.ndim in {3, 4}:
        return np.ascontiguousarray(_pixels(x, name))
    if x.ndim != 2 or x.dtype.kind not in "fiub":  # noqa: PLR2004  # (n, features)
        raise DataError(
            f"{name} has shape {x.shape} and dtype {x.dtype}; allowed: uint8 images of shape (n, height, width), "
            "(n, height, width, channels) or (n, channels, height, width), or numbers of shape (n, features)"
        )
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        features = x.astype(np.float32, order="C")
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        raise DataError(f"{name}, row {row}, column {column}: {x[row, column]} is not a finite 32-bit number")
    return features


def _pixels(x: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if x.ndim == 3:  # noqa: PLR2004  # (n, height, width)
        return x[:, None]
    if x.shape[3] in {1, 3}:
        return x.transpose(0, 3, 1, 2)
    if x.shape[1] in {1, 3}:
        return x
    raise DataError(f"{name} has shape {x.shape}: neither the second nor the last dimension is 1 (grey) or 3 (RGB)")


def _labels(arrays: _Arrays) -> Coded:
    return _coded(arrays, arrays.y, f"y{arrays.suffix}")


def _coded(arrays: _Arrays, values: NDArray[Any], name: str) -> Coded:
    if values.shape != (len(arrays.x),) or values.dtype.kind not in "iuU":
        raise DataError(
            f"{arrays.file}: {name} has shape {values.shape} and dtype {values.dtype}; allowed: integers or strings of "
            f"shape ({len(arrays.x)},), one for each record of x{arrays.suffix}"
        )
    different, codes = np.unique(values, return_inverse=True)
    return Coded(values=different.tolist(), codes=codes.astype(np.int64))


def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images of handwritten digits, shape (1797, 8, 8), intensities 0 to 16, and their labels, shape (1797,).

    They are the test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI Machine
    Learning Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0), as scikit-learn distributes it: the
    file beside this module has the same images and labels in the same order, as bytes and compressed.
    """
    data = files("fedtrain.data.sources").joinpath("digits.npz").read_bytes()
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


def decode_digits(data: Data) -> Decoded:
    """Return the digits, their intensities 0 to 16 scaled to 0 to 255.

    Raises:
        DataError: an owner column is asked for; the digits name no owners.
    """
    if data.partition.column is not None:
        raise DataError(
            f"partition.column = {data.partition.column!r}: the digits do not say who wrote them; "
            "choose another kind of partition and leave the column unset"
        )
    images, labels = digits()
    pixels = np.rint(images * (255 / 16)).astype(np.uint8)[:, None]
    return Decoded(
        info=DataInfo(features=Image(shape=pixels.shape[1:]), target=ClassTarget(names=_DIGITS)),
        train=Split(features=pixels, targets=labels.astype(np.int64)),
        test=None,
    )
